"""`fit` on images without labels, and on a test split that keeps its labels to itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import error_line, make_quick
from twinloop.cli import main
from twinloop.loops import LOOPS, Loop

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


def fit(folder: Path, experiment: str, source: Path, *options: str) -> int:
    """Train an experiment for one epoch; the run is in `folder`/run."""
    config = str(EXPERIMENTS / f"{experiment}.yaml")
    arguments = ["--config", config, "--data.source", str(source), "--trainer.max_epochs", "1"]
    return main(["fit", *arguments, "--run_folder", str(folder / "run"), *options])


def write_images(folder: Path, count: int) -> None:
    """Random images of 8x8."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_an_autoencoder_trains_on_one_folder_of_images(loop: Loop, tmp_path: Path) -> None:
    write_images(tmp_path / "scans", 40)
    options = ["--loop", loop, "--model.network.code_size", "2"]
    assert fit(tmp_path, "autoencoder", tmp_path / "scans", *options) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["dataset"]["notes"] == ["no labels: no column of labels among ['image']"]
    assert set(results["test"]) == {"loss", "mse", "psnr", "ssim"}


def test_a_classifier_trains_where_test_has_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("cat", "dog"):
        write_images(tmp_path / "pets" / "train" / label, 20)
    write_images(tmp_path / "pets" / "test", 10)
    assert fit(tmp_path, "mlp", tmp_path / "pets") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"] == {}
    assert "accuracy" in results["val"]
    line = "pets: test has no labels: no metrics on it that need them"
    assert line in capsys.readouterr().out.splitlines()


def test_a_classifier_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "scans", 4)
    assert fit(tmp_path, "mlp", tmp_path / "scans") == 2
    assert "a classifier needs labels, and scans has none" in error_line(capsys)
