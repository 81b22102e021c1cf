"""ONNX and torch.export files answer as the task does, whatever the size of the batch."""

import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import twinloop
from tests.runs.trained import checkpoint, save
from twinloop.errors import UserError
from twinloop.tasks import Task

pytestmark = pytest.mark.slow


class Unsteady(nn.Module):
    """Answers with random numbers."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(image_shape[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.layer(x).mean((1, 2))
        return answers + torch.rand_like(answers)


def write_run(folder: Path, task: str, network: str, sizes: dict[str, Any], **options: Any) -> Path:
    """A run with new weights, whose running means have moved."""
    found = checkpoint()
    found["data_spec"]["image_shape"] = (1, 12, 9)
    arguments = options | {
        "network": {"class_path": network, "init_args": sizes},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    }
    model = {"class_path": f"twinloop.tasks.{task}", "init_args": arguments}
    found["settings"]["model"] = model
    trained = Task.rebuild(found)
    trained(torch.rand(8, 1, 12, 9))
    found["state_dict"] = trained.state_dict()
    save(folder, "best", found)
    return folder


CLASSIFIERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("MLP", {}, {}),
    ("SequentialClassifier", {"widths": [4, 8]}, {"tta_flip": True}),
    ("LessonClassifier", {}, {}),
]
AUTOENCODERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LessonAutoencoder", {}, {"noise": 0.3}),
    ("BottleneckAutoencoder", {"code_size": 3, "widths": [4]}, {}),
]
MODELS = [("Classification", *model) for model in CLASSIFIERS]
MODELS += [("Reconstruction", *model) for model in AUTOENCODERS]


@pytest.mark.parametrize(("task", "network", "sizes", "options"), MODELS, ids=lambda v: str(v))
def test_every_network_answers_from_both_files(
    task: str, network: str, sizes: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path, task, f"twinloop.models.{network}", sizes, **options)
    onnx, pt2 = run / "export" / "model.onnx", run / "export" / "model.pt2"
    differences = twinloop.export(run, formats=["onnx", "pt2"])
    assert differences.keys() == {onnx, pt2}
    assert differences[pt2] == 0
    assert differences[onnx] < 1e-6
    loaded = twinloop.load(run)
    session = onnxruntime.InferenceSession(onnx)
    for size in (1, 3, 64):
        images = torch.rand(size, 1, 12, 9)
        with torch.no_grad():
            wanted = loaded(images)
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-6, rtol=1e-5)
        assert torch.equal(torch.export.load(pt2).module()(images), wanted)
    extra = {"class_names": "", "image_shape": ""}
    torch.export.load(pt2, extra_files=extra)
    for facts in (extra, session.get_modelmeta().custom_metadata_map):
        read = {name: json.loads(facts[name]) for name in extra}
        assert read == {"class_names": ["cat", "dog"], "image_shape": [1, 12, 9]}


def test_outputs_that_differ_are_not_written(tmp_path: Path) -> None:
    run = write_run(tmp_path, "Classification", f"{__name__}.Unsteady", {})
    message = f"^{re.escape(str(run))}/export/model.pt2: not written, since its outputs"
    with pytest.raises(UserError, match=message):
        twinloop.export(run, formats=["pt2"])
    assert not list((run / "export").iterdir())


def test_a_run_in_float64_is_exported_in_float32(tmp_path: Path) -> None:
    run = write_run(tmp_path, "Classification", "twinloop.models.MLP", {})
    found = torch.load(run / "checkpoints" / "best.ckpt")
    found["state_dict"] = {name: weight.double() for name, weight in found["state_dict"].items()}
    save(run, "best", found)
    assert twinloop.export(run)[run / "export" / "model.safetensors"] == 0
    session = onnxruntime.InferenceSession(run / "export" / "model.onnx")
    assert session.get_inputs()[0].type == "tensor(float)"
    assert twinloop.load(run / "export").network.layers[1].weight.dtype == torch.float64
