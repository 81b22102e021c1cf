"""What `twinloop.load` gives answers with the bits that `predict` writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import twinloop
from tests.commands import fit, run_in
from tests.runs.trained import assert_has
from twinloop.cli import main
from twinloop.data.images import read_images
from twinloop.tasks import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Nine images of noise, of several sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(9):
        pixels = draw.integers(0, 256, (8 + number, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
@pytest.mark.parametrize("experiment", ["lesson-classifier", "autoencoder"])
def test_a_loaded_task_predicts_the_same_bits(
    experiment: str, precision: str, images: Path, tmp_path: Path
) -> None:
    options = ("--trainer.precision", precision, "--trainer.max_epochs", "1")
    assert fit(tmp_path, *options, "--loop", "homemade", experiment=experiment) == 0
    run = run_in(tmp_path)
    command = ["predict", "--config", str(run / "config.yaml"), "--data.images", str(images)]
    assert main(command) == 0
    task = twinloop.load(run)
    _, pixels, _ = read_images(images, task.spec.image_shape)
    with torch.no_grad():
        outputs = task(pixels.float() / 255)
    assert next(task.parameters()).dtype == getattr(
        torch, {"32": "float32", "64": "float64", "bf": "bfloat16"}[precision[:2]]
    )
    name = "logits" if experiment == "lesson-classifier" else "reconstructions"
    with np.load(run / "predictions" / "images" / "predictions.npz") as arrays:
        np.testing.assert_array_equal(arrays[name], outputs.float().numpy())


def test_a_run_in_float64_is_evaluated_with_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(tmp_path, "--trainer.precision", "64-true", "--trainer.max_epochs", "1") == 0
    run = run_in(tmp_path)
    found: dict[str, torch.Tensor] = {}

    def keep(task: Task, *_: Any, **__: Any) -> dict[str, float]:
        found.update(task.state_dict())
        return {}

    monkeypatch.setattr("twinloop.cli.evaluate.evaluate", keep)
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    assert_has(twinloop.load(run), {"state_dict": found})
