"""The data module: sizes, splits, float batches in [0, 1], and options that cannot be."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from twinloop.data.augment import Augmentation
from twinloop.data.batches import from_integers
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError


def test_sizes_are_those_of_the_split(digits: ImageDataModule) -> None:
    assert digits.sizes == {"train": 1_372, "val": 125, "test": 300}
    assert [len(digits.train_dataloader()), len(digits.val_dataloader())] == [22, 2]
    assert len(digits.test_dataloader()) == 5
    assert str(digits) == "ImageDataModule('digits')"


@pytest.mark.parametrize(("val_size", "images"), [(0.5, 748), (0, 0), (1, 1), (200, 200)])
def test_val_is_a_share_or_a_number_of_images(val_size: float, images: int) -> None:
    data = ImageDataModule("digits", val_size=val_size)
    assert data.sizes == {"train": 1_497 - images, "val": images, "test": 300}


def test_val_is_stratified_and_apart_from_train(digits: ImageDataModule) -> None:
    labels = digits.data.train.labels
    train, val = digits.rows["train"], digits.rows["val"]
    assert not set(train.tolist()) & set(val.tolist())
    shares = labels.bincount() * 125 / 1_497
    assert ((labels[val].bincount() - shares).abs() < 1).all()


def test_the_seed_of_the_split_chooses_val_and_leaves_test(digits: ImageDataModule) -> None:
    same = ImageDataModule("digits", seed=43)
    other = ImageDataModule("digits", split_seed=43)
    assert torch.equal(same.rows["val"], digits.rows["val"])
    assert not torch.equal(other.rows["val"], digits.rows["val"])
    assert torch.equal(other.rows["test"], digits.rows["test"])
    first = digits.rows["val"][:5].tolist()
    assert first == [6, 12, 28, 32, 33]  # as before the split had a seed of its own


def test_batches_become_floats_from_0_to_1(digits: ImageDataModule) -> None:
    images, labels, draws = next(iter(digits.val_dataloader()))
    assert images.dtype == torch.uint8
    floats, targets = digits.on_after_batch_transfer((images, labels, draws), 0)
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, images / 255, rtol=0, atol=0)
    assert torch.equal(targets, labels)
    assert torch.equal(images, next(iter(digits.val_dataloader()))[0])


def test_only_train_is_shuffled_and_augmented() -> None:
    data = ImageDataModule("digits", batch_size=2_000, augmentation=Augmentation(flip=True))
    images, labels, draws = next(iter(data.train_dataloader()))
    assert draws is not None
    assert not torch.equal(labels, data.data.train.labels[data.rows["train"]])
    floats, _ = data.on_after_batch_transfer((images, labels, draws), 0)
    mirrored = from_integers(draws)[:, 2] < 0.5
    torch.testing.assert_close(floats[mirrored], images[mirrored].flip(3) / 255)
    torch.testing.assert_close(floats[~mirrored], images[~mirrored] / 255)
    for batches, name in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        images, labels, draws = next(iter(batches))
        assert draws is None
        split = data.data.test if name == "test" else data.data.train
        assert torch.equal(images, split.images[data.rows[name]])
        assert torch.equal(labels, split.labels[data.rows[name]])


def test_image_size_reaches_the_images() -> None:
    data = ImageDataModule("digits", image_size=(5, 11))
    assert data.spec.image_shape == (1, 5, 11)
    assert data.data.train.images.shape == (1_497, 1, 5, 11)


def test_predict_reads_own_images_without_a_data_set(tmp_path: Path) -> None:
    Image.new("L", (20, 10), 51).save(tmp_path / "grey.png")
    data = ImageDataModule("owner/never-asked-for", images=tmp_path)
    data.spec = DataSpec("pets", "", (3, 4, 6), ("cat", "dog"))
    batch = next(iter(data.predict_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(images, torch.full((1, 3, 4, 6), 0.2))
    assert data.paths == [tmp_path / "grey.png"]


@pytest.mark.parametrize("images", [None, ""])
def test_predict_without_images_is_refused(images: str | None) -> None:
    """An empty path would be the current folder."""
    with pytest.raises(UserError, match=r"data\.images is not set"):
        ImageDataModule("digits", images=images).predict_dataloader()


def test_auto_without_a_network_is_a_stand_in() -> None:
    assert ImageDataModule("auto").source == "digits"
    assert ImageDataModule("auto").is_stand_in
    assert not ImageDataModule("digits").is_stand_in


WRONG = {
    "batch size": ({"batch_size": 0}, "data.batch_size is 0; it must be at least 1"),
    "negative val": ({"val_size": -0.1}, "data.val_size is -0.1; it must be 0 or more"),
    "no number": ({"val_size": math.nan}, "data.val_size is nan; it must be 0 or more"),
    "endless val": ({"val_size": math.inf}, "data.val_size is inf; it must be 0 or more"),
    "image size": ({"image_size": (0, 8)}, "data.image_size is (0, 8); both sides must be"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_option_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ImageDataModule("digits", **options)


@pytest.mark.parametrize("val_size", [1_497, 1_496.6, 0.9999, 5_000])
def test_a_val_that_leaves_nothing_to_train_on_is_refused(val_size: float) -> None:
    with pytest.raises(UserError, match=r"train has only 1497 images: none would be left"):
        _ = ImageDataModule("digits", val_size=val_size).sizes


@pytest.mark.gpu
def test_batches_are_gathered_and_augmented_on_the_gpu() -> None:
    def batches(device: str) -> list[torch.Tensor]:
        data = ImageDataModule("digits", augmentation=Augmentation(shift=2, flip=True, erase=3))
        data.device = torch.device(device)
        given = list(data.train_batches())
        assert {part.device.type for batch in given for part in batch if part is not None} == {
            device
        }
        return [data.on_after_batch_transfer(batch, 0)[0].cpu() for batch in given]

    for ours, theirs in zip(batches("cpu"), batches("cuda"), strict=True):
        assert torch.equal(ours, theirs)
