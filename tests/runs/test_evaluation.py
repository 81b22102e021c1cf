"""The metrics of a task; PCA and the probes of codes, against NumPy's own linear algebra."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from twinloop.data.batches import Batches
from twinloop.data.cache import DecodedData, Split
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.models import MLP, Autoencoder, BottleneckAutoencoder
from twinloop.runs import evaluation
from twinloop.runs.evaluation import encode, evaluate, evaluate_codes, evaluating
from twinloop.tasks import Classification


class FirstPixels(Autoencoder):
    """The code is the pixels of the first `rows` rows, as they are."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.ZeroPad2d((0, 0, 0, rows - 8)), nn.Conv2d(1, 1, 1))
        self.decoder = nn.Sequential(nn.ZeroPad2d((0, 0, 0, 8 - rows)))
        for weight, value in zip(self.encoder.parameters(), (1.0, 0.0), strict=True):
            nn.init.constant_(weight, value)


@pytest.mark.parametrize("rows", [1, 3])
def test_pca_is_that_of_a_singular_value_decomposition(rows: int, digits: ImageDataModule) -> None:
    found = evaluate_codes(FirstPixels(rows), digits)
    train = digits.data.train.images[digits.rows["train"]].numpy().reshape(-1, 64) / 255
    test = digits.data.test.images.numpy().reshape(-1, 64) / 255
    mean = train.mean(0)
    _, _, directions = np.linalg.svd(train - mean, full_matrices=False)
    kept = directions[: 8 * rows]
    drawn = (test - mean) @ kept.T @ kept + mean
    assert found["pca_mse"] == pytest.approx(np.mean((drawn - test) ** 2), rel=1e-4)


def test_the_nearest_codes_vote(digits: ImageDataModule) -> None:
    found = evaluate_codes(FirstPixels(8), digits)
    train = digits.data.train.images[digits.rows["train"]].numpy().reshape(-1, 64) / 255
    test = digits.data.test.images.numpy().reshape(-1, 64) / 255
    labels = digits.data.train.labels[digits.rows["train"]].numpy()
    distances = (test**2).sum(1)[:, None] - 2 * test @ train.T + (train**2).sum(1)
    nearest = np.sort(np.argsort(distances, axis=1)[:, :10])
    votes = np.stack([(labels[nearest] == label).sum(1) for label in range(10)])
    right = (votes.argmax(0) == digits.data.test.labels.numpy()).mean()
    assert found["knn_accuracy"] == pytest.approx(right)
    assert 0.9 < found["linear_probe_accuracy"] < 1


def small(train: list[int], test: list[int]) -> ImageDataModule:
    """Images of 8x8 with these labels, bright where the label is 1."""

    def split(labels: list[int]) -> Split:
        numbers = torch.tensor(labels)
        images = torch.randint(100, (len(labels), 1, 8, 8)) + 150 * numbers[:, None, None, None]
        return Split(images.to(torch.uint8), numbers)

    data = ImageDataModule("digits", val_size=0)
    spec = DataSpec("small", "", (1, 8, 8), ("dark", "bright"))
    data.data = DecodedData(spec, split(train), split(test), "test")
    return data


@pytest.mark.parametrize(
    ("train", "test", "accuracy"),
    [
        ([0, 1] * 20, [0, 1] * 5, 1),
        ([0] * 20, [0, 0, 0, 1], 0.75),  # a single class to learn from
    ],
)
def test_separable_codes_are_classified(train: list[int], test: list[int], accuracy: float) -> None:
    found = evaluate_codes(FirstPixels(1), small(train, test))
    assert found["linear_probe_accuracy"] == found["knn_accuracy"] == accuracy
    assert evaluate_codes(FirstPixels(8), small(train[:4], test))["pca_mse"] > 0  # 4 images of 64


def test_codes_and_labels_belong_together(digits: ImageDataModule) -> None:
    rows = torch.tensor([5, 2, 9, 0, 7])
    batches = Batches(digits.data.train, rows, 2)
    codes, labels = encode(FirstPixels(2), digits, batches)
    expected = digits.data.train.images[rows].float() / 255
    np.testing.assert_array_equal(codes, expected[:, :, :2].flatten(1))
    np.testing.assert_array_equal(labels, digits.data.train.labels[rows])


def test_training_modes_are_restored_after_an_error() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    network[1].eval()

    def fail() -> None:
        with evaluating(network):
            assert not any(part.training for part in network.modules())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert [part.training for part in network.modules()] == [True, True, False, False]


@pytest.fixture
def task(digits: ImageDataModule) -> Classification:
    return Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)


@pytest.mark.parametrize(("limit", "batches"), [(2, 2), (0.5, 2), (None, 5), (99, 5)])
def test_a_limit_evaluates_the_first_batches_only(
    limit: int | float | None, batches: int, task: Classification, digits: ImageDataModule
) -> None:
    found = evaluate(task, digits, "test", limit=limit)
    images = digits.data.test.images[: 64 * batches].float() / 255
    with torch.no_grad():
        right = task(images).argmax(1) == digits.data.test.labels[: 64 * batches]
    assert found["accuracy"] == pytest.approx(right.float().mean().item())


def test_without_labels_a_classifier_is_not_measured(
    task: Classification, digits: ImageDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = Split(digits.data.test.images, torch.full_like(digits.data.test.labels, -1))
    monkeypatch.setattr(digits, "data", dataclasses.replace(digits.data, test=test))
    assert evaluate(task, digits, "test") == {}
    assert evaluate(task, digits, "val")["accuracy"] > 0
    network = BottleneckAutoencoder(digits.spec.image_shape, 2, widths=(4,))
    assert list(evaluate_codes(network, digits)) == ["pca_mse"]


def test_without_a_batch_there_is_no_metric(task: Classification, digits: ImageDataModule) -> None:
    assert evaluate(task, digits, "val", limit=0) == {}
    assert evaluate(task, ImageDataModule("digits", val_size=0), "val") == {}


def test_large_sets_of_codes_are_subsampled(
    digits: ImageDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "CODES", 500 * 64)
    monkeypatch.setattr(evaluation, "COMPARED", 100 * 500 * 64)
    found = evaluate_codes(FirstPixels(8), digits)
    # So many of the 300 images are compared that the accuracy is a whole number of per cent.
    assert found["knn_accuracy"] * 100 == pytest.approx(round(found["knn_accuracy"] * 100))
    assert found["knn_accuracy"] > 0.9
    assert found["linear_probe_accuracy"] > 0.85
