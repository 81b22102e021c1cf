"""The experiments on real Fashion-MNIST reach what they promise."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from twinloop.cli import main
from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.parity import LOOPS
from twinloop.data.datamodule import ImageDataModule

pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.timeout(1200)]

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def train(experiment: str, data: Path, folder: Path, loop: str = "lightning") -> dict[str, Any]:
    """Train one experiment as it is and return its results."""
    options = ["--data.source", str(data), "--trainer.default_root_dir", str(folder)]
    command = ["fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--loop", loop]
    assert main([*command, *options]) == 0
    run = folder / "lightning_logs" / experiment / "version_0-fashion_mnist"
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    assert results["dataset"]["sizes"] == {"train": 55_000, "val": 5_000, "test": 10_000}
    return results


def test_decoded_pixels_are_the_published_ones(fashion_mnist: Path) -> None:
    data = ImageDataModule(str(fashion_mnist)).data
    assert data.spec.image_shape == (1, 28, 28)
    assert data.test_split == "test"
    assert data.train.labels.bincount().tolist() == [6_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    # The first images of the published files: an ankle boot in train, another in test.
    assert data.spec.class_names[data.train.labels[0]] == "Ankle boot"
    assert data.spec.class_names[data.test.labels[0]] == "Ankle boot"
    # The mean and deviation that everyone normalises Fashion-MNIST by.
    pixels = data.train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize(
    ("experiment", "metric", "lowest", "highest"),
    [
        ("autoencoder", "mse", 0, 0.0085),  # a PCA has 0.0151
        ("classifier", "accuracy", 0.925, 1),
        ("lesson-classifier", "accuracy", 0.87, 1),
        ("lesson-autoencoder", "mse", 0, 0.034),
    ],
)
def test_an_experiment_reaches_its_result(
    experiment: str,
    metric: str,
    lowest: float,
    highest: float,
    fashion_mnist: Path,
    tmp_path: Path,
) -> None:
    test = train(experiment, fashion_mnist, tmp_path)["test"]
    assert lowest <= test[metric] <= highest
    assert experiment != "autoencoder" or test["pca_mse"] == pytest.approx(0.0151, abs=5e-5)


def test_both_loops_end_with_the_same_weights(fashion_mnist: Path, tmp_path: Path) -> None:
    one, other = (train("mlp", fashion_mnist, tmp_path / loop, loop) for loop in LOOPS)
    assert one["test"] == other["test"]
    checkpoints = [
        torch.load(next((tmp_path / loop).rglob("last.ckpt")))["state_dict"] for loop in LOOPS
    ]
    assert compare_tensors("weights", *checkpoints) == []
