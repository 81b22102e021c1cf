"""A folder for the Hub: the weights to the bit, the settings without the user's folders, a card."""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch.optim import SGD

import twinloop
from tests.runs.trained import (
    NETWORK,
    OPTIMIZER,
    SETTINGS,
    SPEC,
    assert_has,
    checkpoint,
    save,
)
from twinloop.cli import main
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.tasks import Regression

RESULTS: dict[str, Any] = {
    "dataset": {"sizes": {"train": 1372, "val": 125, "test": 300}},
    "seed": 7,
    "epochs": 2,
    "seconds": {"total": 1234.5},
    "trained_by": ["lightning", "homemade"],
    **{"device": "cpu", "machine": "x86_64, 2 cores", "commit": None},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "val": {"loss": 0.5, "accuracy": 0.25},
    "test": {"loss": None, "accuracy": 0.75, "class_accuracy": {"cat": 1.0}, "knn": 0.5},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with results."""
    found = checkpoint()
    found["settings"] |= {"experiment": "my <b>", "data": {"val_size": 0.1, "source": "/home/me"}}
    save(tmp_path, "best", found)
    save(tmp_path, "last", checkpoint())
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path


def test_what_is_exported_is_loaded_to_the_bit(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--formats", "safetensors"]) == 0
    file = run / "export" / "model.safetensors"
    line = f"{file}: outputs differ by at most 0 from those of the run\n"
    assert capsys.readouterr().out == line
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")
    for place in (run / "export", file):
        assert_has(task := twinloop.load(place), best)
        assert task.spec == SPEC
    assert "/home/me" not in (run / "export" / "config.json").read_text()
    assert {path.name for path in file.parent.iterdir()} == {
        *("model.safetensors", "config.json", "README.md"),
    }


def test_the_card_has_the_results_of_the_best_checkpoint(run: Path) -> None:
    twinloop.export(run, run / "new" / "folder", ["safetensors"])
    card = ModelCard.load(run / "new" / "folder" / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"accuracy": 0.75, "knn": 0.5}
    for line in (
        "# my &lt;b&gt; on pets",
        "| images | 1,372 train, 125 val, 300 test |",
        "| training | 2 epochs, 1,234 s, seed 7, loop: lightning, then homemade |",
        "| loss | 0.5000 | - |",
        "| accuracy | 0.2500 | 0.7500 |",
        "| knn | - | 0.5000 |",
        '["cat", "dog"]',
    ):
        assert f"\n{line}\n" in card.text, line


def test_the_card_of_another_checkpoint_has_no_results(run: Path) -> None:
    twinloop.export(run / "checkpoints" / "last.ckpt", run / "last", ["safetensors"])
    card = (run / "last" / "README.md").read_text()
    assert "\nNot evaluated: " in card
    assert "accuracy" not in card


def test_a_regression_on_data_of_ones_own_is_exported(tmp_path: Path) -> None:
    given = {"network": NETWORK, "optimizer": OPTIMIZER, "outputs": 2}
    model = {"class_path": "twinloop.tasks.Regression", "init_args": given}
    settings = SETTINGS | {"data": {"class_path": "waves.Waves"}, "model": model}
    task = Regression(partial(MLP, hidden=3), lambda weights: SGD(weights, 0.1), SPEC, outputs=2)
    found = checkpoint() | {"state_dict": task.state_dict(), "settings": settings}
    save(tmp_path, "best", found)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    twinloop.export(tmp_path, formats=["safetensors"])
    assert_has(twinloop.load(tmp_path / "export"), found)
    assert ModelCard.load(tmp_path / "export" / "README.md").data.pipeline_tag is None


def test_invalid_results_are_named(run: Path) -> None:
    (run / "results.json").write_text('{"val": {}}')
    message = f"^{re.escape(str(run))}/checkpoints/best.ckpt: the model card cannot be written: K"
    with pytest.raises(UserError, match=message):
        twinloop.export(run, formats=["safetensors"])
    assert not list((run / "export").iterdir())


@pytest.mark.parametrize(
    ("form", "module"), [("safetensors", "safetensors.torch"), ("onnx", "onnxruntime")]
)
def test_a_missing_extra_is_named_in_one_line(
    form: str,
    module: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["export", str(run), "--formats", form]) == 2
    line = rf"error: {module.partition('.')[0]} cannot be imported \([^\n]*\); install the extra "
    assert re.fullmatch(rf"{line}'export' [^\n]*\n", capsys.readouterr().err)


def test_a_damaged_export_is_refused(run: Path) -> None:
    twinloop.export(run, formats=["safetensors"])
    file = run / "export" / "model.safetensors"
    config = file.with_name("config.json")
    whole, text = file.read_bytes(), config.read_text()
    for content, settings in ((whole[:-1], text), (whole, text[:-9]), (whole, "[]")):
        file.write_bytes(content)
        config.write_text(settings)
        with pytest.raises(UserError, match=f"^{re.escape(str(file))}: truncated, damaged or not"):
            twinloop.load(file.parent)
    config.write_text("{}")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        twinloop.load(file.parent)


def test_weights_in_one_memory_are_written_apart(run: Path) -> None:
    found = checkpoint()
    weights = found["state_dict"]
    weights["network.layers.3.bias"] = weights["network.layers.1.bias"][:2]
    path = save(run, "best", found)
    twinloop.export(path, formats=["safetensors"])
    assert_has(twinloop.load(run / "export"), found)
    assert torch.equal(weights["network.layers.3.bias"], weights["network.layers.1.bias"][:2])
