"""PCA of large images, by iteration, against a singular value decomposition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from twinloop.data.cache import DecodedData, Split
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.runs import pca


def data(train: Tensor, test: Tensor) -> ImageDataModule:
    """A data set of these uint8 images `[N, C, H, W]`, all of one class."""
    found = ImageDataModule("digits", val_size=0)
    spec = DataSpec("large", "", tuple(train.shape[1:]), ("only",))  # type: ignore[arg-type]
    one, other = (Split(images, torch.zeros(len(images)).long()) for images in (train, test))
    found.data = DecodedData(spec, one, other, "test")
    return found


def blurred(count: int, size: int) -> Tensor:
    """Images in colour whose coarse parts have the larger contrast, as those of cameras have."""
    images = torch.full((count, 3, size, size), 127.0)
    for side in (2, 4, 8, 16):
        coarse = torch.randn(count, 3, side, side) * 80 / side
        images += torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return images.clamp(0, 255).to(torch.uint8)


def exact(train: Tensor, test: Tensor, components: int) -> float:
    """The MSE of a PCA by NumPy's SVD, in float64."""
    pixels, new = (images.flatten(1).double().numpy() / 255 for images in (train, test))
    mean = pixels.mean(0)
    kept = np.linalg.svd(pixels - mean, full_matrices=False)[2][:components]
    return float(np.mean(((new - mean) @ kept.T @ kept + mean - new) ** 2))


@pytest.mark.slow
@pytest.mark.timeout(60)  # a covariance of 12,288 x 12,288 takes longer to decompose
def test_images_of_64x64_in_colour_are_described_within_a_thousandth() -> None:
    train, test = blurred(150, 64), blurred(50, 64)
    found = pca.pca_mse(data(train, test), 12)
    assert found == pytest.approx(exact(train, test, 12), rel=1e-3)


def test_reading_in_chunks_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = data(blurred(100, 20), blurred(30, 20))
    whole = pca.pca_mse(images, 5)
    monkeypatch.setattr(pca, "CHUNK", 7 * 1200)
    assert pca.pca_mse(images, 5) == pytest.approx(whole, rel=1e-4)
    assert pca.pca_mse(images, 5) == pca.pca_mse(images, 5)


@pytest.mark.parametrize("size", [16, 20])  # exact and not
def test_rows_are_subsampled_to_fit_memory(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blurred(300, size), blurred(50, size)
    pixels = 3 * size**2
    monkeypatch.setattr(pca, "KEPT", 60 * pixels)
    monkeypatch.setattr(pca, "WORK", 60 * pixels * 37)
    rows = pca.sampled(torch.arange(300), 60)
    assert len(set(rows.tolist())) == 60
    found = pca.pca_mse(data(train, test), 5)
    assert found == pytest.approx(exact(train[rows], test, 5), rel=2e-3)


def test_fewer_images_than_components_are_no_obstacle() -> None:
    train, test = blurred(4, 20), blurred(3, 20)
    assert pca.pca_mse(data(train, test), 64) == pytest.approx(exact(train, test, 4), rel=1e-3)


def test_a_pca_that_would_take_minutes_is_left_out() -> None:
    train = blurred(1100, 20)
    assert pca.pca_mse(data(train, train[:5]), 1025) is None
