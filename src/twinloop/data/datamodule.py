"""Any image classification data set as a LightningDataModule."""

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from PIL import ImageColor
from torch import Tensor, nn

from twinloop.data import cache
from twinloop.data.augment import Augmentation, as_augmentation, as_floats, augmented
from twinloop.data.batches import Batch, Batches, from_integers
from twinloop.data.decode_splits import Reading
from twinloop.data.images import read_images
from twinloop.data.resumable import ResumableData
from twinloop.data.source import FASHION_MNIST, cache_folder, find_source, source_for_make
from twinloop.data.spec import DataFacts, DataSpec
from twinloop.data.split import SPLIT_SEED
from twinloop.data.targets import Target
from twinloop.errors import UserError, escape_unprintable
from twinloop.files import expanded
from twinloop.processes import is_first


class ImageDataModule(ResumableData):
    """Batches `(images, labels)`: float32 `[B, C, H, W]` in [0, 1] and int64 `[B]`.

    The Trainer makes these of what the loaders give, bytes, by `on_after_batch_transfer`; without a
    Trainer `DataLoaders.from_data` does.

    Args:
        source: A Hub id, a folder in Hub layout or with a folder of images per class, or 'digits'
            (no network). 'auto': Fashion-MNIST from the Hub or its cache, else digits.
        name: Configuration of the data set, if it has several.
        batch_size: Images per batch; the last batch of an epoch may have fewer.
        val_size: Size of validation, held out of train: a share below 1 (1/12 of 60,000 images is
            5,000), or a number of images. A validation split beside a test split is used whole.
        image_size: Height and width to which every image is resized.
        channels: 1 converts every image to grey, 3 to RGB; by default RGB if any is in colour.
        background: Colour behind transparent images, such as `#808080`; if unset it is white, and
            in predict that of the training.
        skip_unreadable: Leave out images that cannot be read, which are an error by default.
        augmentation: Random changes of the training images, or modules of your own: `Transforms`.
        seed: With the epoch, the seed of the order and the augmentation.
        split_seed: Seed of the validation split, the same for every `seed` unless it is set.
        image_column: Column of the images, if there are several.
        label_column: Column of the labels, if there are several; of numbers also several columns.
        target: What that column has: a class; a number or numbers, float32 `[B, K]`; labels,
            `[B, labels]` of ones and zeros; or an image, as the images are. All but a class need
            `label_column`.
        revision: Commit, tag or branch of the data set on the Hub.
        cache_dir: Folder of the decoded images; $TWINLOOP_CACHE or ~/.cache/twinloop if unset.
        images: An image of your own or a folder of images, for predict.
    """

    def __init__(
        self,
        source: str = FASHION_MNIST,
        *,
        name: str | None = None,
        batch_size: int = 256,
        val_size: float = 1 / 12,
        image_size: tuple[int, int] | None = None,
        channels: int | None = None,
        background: str | None = None,
        skip_unreadable: bool = False,
        augmentation: Augmentation | nn.Module | list[nn.Module] | None = None,
        seed: int = 42,
        split_seed: int = SPLIT_SEED,
        image_column: str | None = None,
        label_column: str | list[str] | None = None,
        target: Target = "class",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        images: str | Path | None = None,
    ) -> None:
        super().__init__(seed)
        _check_sizes(batch_size, val_size, image_size, split_seed)
        skips_pairs = skip_unreadable and target == "image"
        _check_pixels(channels, background or "white", skips_pairs=skips_pairs)
        self.source = source_for_make() if source == "auto" else source
        self.is_stand_in = source == "auto" and self.source == "digits"
        self.name, self.revision, self.cache_dir = name, revision, cache_dir
        self.batch_size, self.val_size, self.split_seed = batch_size, val_size, split_seed
        self.reading = Reading(
            image_size and (image_size[0], image_size[1]),
            *(channels, background or "white", image_column, label_column),
            *(skip_unreadable, target),
        )
        self.background, self.augmentation = background, as_augmentation(augmentation)
        self.images = expanded(images) if images else None
        self._on_gpu: dict[str, cache.Split] = {}

    @cached_property
    def data(self) -> cache.DecodedData:
        """The memory-mapped data set, decoded at the first use on this machine."""
        source = find_source(self.source, self.revision, self.name)
        data = cache.load(source, cache_folder(self.cache_dir), self.reading)
        _print_notes(data.spec.name, data.notes)
        return data

    @cached_property
    def spec(self) -> DataSpec:
        """The image shape and class names; predict sets them from a checkpoint."""
        return self.data.spec

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """Row indices: of train and val in the official train split, and of test."""
        return self.data.rows(self.val_size, self.split_seed)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images in train, val and test."""
        return {name: len(rows) for name, rows in self.rows.items()}

    @property
    def facts(self) -> DataFacts:
        """What results.json says of how the images were read."""
        return DataFacts(self.data.test_split, self.data.notes, self.data.test.has_labels)

    def batches(self, processes: int = 1) -> dict[str, int]:
        """The number of batches in train, val and test, for each of several processes."""
        return {name: math.ceil(n / processes / self.batch_size) for name, n in self.sizes.items()}

    def __str__(self) -> str:  # Lightning's would create every loader, to count batches
        return f"{type(self).__name__}({self.source!r})"

    def split(self, name: str) -> cache.Split:
        """'train' or 'test', in GPU memory if it fits there."""
        mapped: cache.Split = getattr(self.data, name)
        if self.device.type == "cuda" and name not in self._on_gpu:
            self._on_gpu[name] = mapped.on_gpu(self.device)
        return self._on_gpu.get(name, mapped)

    def train_batches(self, *, overfit: bool = False) -> Batches:
        """The batches of train, shuffled and augmented unless `overfit` is true."""
        return Batches(
            *(self.split("train"), self.rows["train"], self.batch_size),
            seed=self.seed,
            shuffle=not overfit,
            augmentation=None if overfit else self.augmentation,
        )

    def val_dataloader(self) -> Batches:
        return Batches(self.split("train"), self.rows["val"], self.batch_size)

    def test_dataloader(self) -> Batches:
        return Batches(self.split("test"), self.rows["test"], self.batch_size)

    def predict_dataloader(self) -> Batches:
        """The images at `images`, in the order of `self.paths`, all labelled 0."""
        if self.images is None:
            raise UserError("data.images is not set; it is an image or a folder of your images")
        self.paths, self.predict_images, notes = read_images(
            *(self.images, self.spec.image_shape),
            *(self.background or "white", self.reading.skip_unreadable),
        )
        _print_notes(self.images.name, notes)
        rows = torch.arange(len(self.predict_images))
        return Batches(cache.Split(self.predict_images, 0 * rows), rows, self.batch_size)

    def examples(self, count: int) -> tuple[Tensor, Tensor]:
        """The first images of val, or of train where val is empty, with their labels."""
        rows = (self.rows["val"] if len(self.rows["val"]) else self.rows["train"])[:count]
        batch = self.data.train.images[rows], self.data.train.labels[rows], None
        return self.on_after_batch_transfer(batch, 0)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment a batch and convert it to float, on its device; images as targets as well."""
        images, labels, random = batch
        if random is not None and self.augmentation is not None:
            images, labels = augmented(self.augmentation, images, labels, from_integers(random))
        return as_floats(images), as_floats(labels)


def _print_notes(name: str, notes: Iterable[str]) -> None:
    if is_first():
        for note in notes:
            print(f"{escape_unprintable(name)}: {escape_unprintable(note)}", flush=True)


def _check_sizes(
    batch_size: int, val_size: float, image_size: tuple[int, int] | None, split_seed: int
) -> None:
    if split_seed < 0:
        raise UserError(f"data.split_seed is {split_seed}; it must be 0 or more")
    if batch_size < 1:
        raise UserError(f"data.batch_size is {batch_size}; it must be at least 1")
    if not 0 <= val_size < math.inf:
        raise UserError(f"data.val_size is {val_size}; it must be 0 or more")
    if image_size is not None and min(image_size) < 1:
        raise UserError(f"data.image_size is {image_size}; both sides must be at least 1")


def _check_pixels(channels: int | None, background: str, *, skips_pairs: bool) -> None:
    if skips_pairs:
        raise UserError("data.skip_unreadable: images as targets are in pairs; correct them")
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels is {channels}; it must be 1 (grey) or 3 (RGB)")
    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise UserError(
            f"data.background is {background!r}; it must be a colour such as white or #808080"
        ) from error
