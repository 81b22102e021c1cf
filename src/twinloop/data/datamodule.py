"""Any image classification data set as a LightningDataModule."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL import ImageColor
from torch import Tensor

from twinloop.data import cache
from twinloop.data.augment import Augmentation
from twinloop.data.batches import Batch, Batches, from_integers
from twinloop.data.images import read_images
from twinloop.data.source import FASHION_MNIST, cache_folder, find_source, source_for_make
from twinloop.data.spec import DataSpec
from twinloop.data.split import stratified
from twinloop.errors import UserError, escape_unprintable
from twinloop.files import expanded
from twinloop.processes import is_first


class ImageDataModule(LightningDataModule):
    """Batches `(images, labels)`: float32 `[B, C, H, W]` in [0, 1] and int64 `[B]`.

    Args:
        source: A Hub id, a folder in Hub layout, a folder with one folder of images for each
            class, or 'digits' (needs no network). 'auto' is make's default: Fashion-MNIST from
            the Hub or its cache, and digits where neither answers.
        name: Which configuration of the data set, where it has several.
        batch_size: Images in a batch; the last batch of an epoch may have fewer.
        val_size: How much of train is validation: a share below 1, otherwise a number of
            images. 1/12 of Fashion-MNIST's 60,000 is 5,000. A validation split beside a test
            split is validation, whatever its size.
        image_size: Resize every image to this height and width.
        channels: 1 makes every image grey, 3 every image RGB; unset, images are RGB if one is.
        background: The color that transparent images are put on, `white` or `#808080` say.
        skip_unreadable: Leave out images that cannot be read, and say which; unset, all of them
            are listed in an error.
        augmentation: Random changes of the training images.
        seed: Fixes the validation split, and with the epoch the order and the augmentation.
        image_column: Which column holds the images, where there are several.
        label_column: Which column holds the labels, where there are several.
        revision: A commit, tag or branch of the data set on the Hub.
        cache_dir: Where decoded images are kept; $TWINLOOP_CACHE or ~/.cache/twinloop if unset.
        images: An image of your own, or a folder of them, for predict.

    Raises:
        UserError: a size that cannot be, or data that cannot be read.
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
        background: str = "white",
        skip_unreadable: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 42,
        image_column: str | None = None,
        label_column: str | None = None,
        revision: str | None = None,
        cache_dir: Path | None = None,
        images: Path | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; it must be at least 1")
        if not 0 <= val_size < math.inf:
            raise UserError(f"data.val_size is {val_size}; it must be 0 or more")
        if channels not in (None, 1, 3):
            raise UserError(f"data.channels is {channels}; it must be 1 (grey) or 3 (RGB)")
        try:
            ImageColor.getrgb(background)
        except ValueError as error:
            raise UserError(
                f"data.background is {background!r}; it must be a color such as white or #808080"
            ) from error
        if image_size is not None and min(image_size) < 1:
            raise UserError(f"data.image_size is {image_size}; both sides must be at least 1")
        self.source = source_for_make() if source == "auto" else source
        self.is_stand_in = source == "auto" and self.source == "digits"
        self.batch_size = batch_size
        self.val_size = val_size
        self.name = name
        self.reading = cache.Reading(
            image_size and (image_size[0], image_size[1]),
            *(channels, background, image_column, label_column, skip_unreadable),
        )
        self.augmentation = augmentation
        self.seed = seed
        self.revision = revision
        self.cache_dir = cache_dir
        self.images = expanded(images) if images else None
        self.device = torch.device("cpu")
        self._train: Batches | None = None
        self._resumed: dict[str, int] | None = None
        self._on_gpu: dict[str, cache.Split] = {}

    @cached_property
    def data(self) -> cache.DecodedData:
        """The decoded data set, mapped; the first use anywhere decodes it."""
        source = find_source(self.source, self.revision, self.name)
        data = cache.load(source, cache_folder(self.cache_dir), self.reading)
        if is_first():
            for note in data.notes:
                print(f"{data.spec.name}: {escape_unprintable(note)}", flush=True)
        return data

    @cached_property
    def spec(self) -> DataSpec:
        """The shape of an image and the names of the classes, for the models.

        Predict sets it to what a checkpoint was trained on, and so needs no data set.
        """
        return self.data.spec

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """The row numbers of train and val, both in the official train split, and of test."""
        train, own = self.data.train, self.data.val_rows
        if own:
            rows, test = torch.arange(len(train)), torch.arange(len(self.data.test))
            return {"train": rows[:-own], "val": rows[-own:], "test": test}
        size = self.val_size if self.val_size >= 1 else len(train) * self.val_size
        if round(size) >= len(train):
            raise UserError(
                f"data.val_size is {self.val_size:g}, but train has only {len(train)} images: "
                "none would be left to train on"
            )
        rest, val = stratified(train.labels, round(size), self.seed)
        return {"train": rest, "val": val, "test": torch.arange(len(self.data.test))}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images in train, val and test."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def __str__(self) -> str:
        """Only the source; Lightning would make every loader to count batches."""
        return f"{type(self).__name__}({self.source!r})"

    def setup(self, stage: str) -> None:
        """Learn from the Trainer where it trains; `build_learner` says so for the Learner."""
        self.device = self.trainer.strategy.root_device  # type: ignore[union-attr]

    def split(self, name: str) -> cache.Split:
        """'train' or 'test', on the GPU where it takes at most half of the memory left there."""
        mapped: cache.Split = getattr(self.data, name)
        if self.device.type != "cuda":
            return mapped
        if name not in self._on_gpu:
            free, _ = torch.cuda.mem_get_info(self.device)
            fits = mapped.images.nbytes <= free / 2
            self._on_gpu[name] = mapped.to(self.device) if fits else mapped
        return self._on_gpu[name]

    def train_dataloader(self) -> Batches:
        """What train is for Lightning, by its flag `overfit_batches`."""
        return self.train_batches(
            overfit=self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        )

    def train_batches(self, *, overfit: bool = False) -> Batches:
        """Shuffled and augmented; with `overfit` in their own order and as they are."""
        self._train = Batches(
            self.split("train"),
            self.rows["train"],
            self.batch_size,
            seed=self.seed,
            shuffle=not overfit,
            augmentation=None if overfit else self.augmentation,
        )
        if self._resumed is not None:
            self._train.load_state_dict(self._resumed)
            self._resumed = None
        return self._train

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is, for a checkpoint."""
        return {"train": self._train.state_dict()} if self._train is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next epoch begin where the checkpoint's was.

        Lightning does so itself, but only with a loader that is made after all of a checkpoint
        was read, and a schedule asks for one before, to know the length of the run.
        """
        self._resumed = state_dict["train"]

    def val_dataloader(self) -> Batches:
        """The held-out part of train, in its own order."""
        return Batches(self.split("train"), self.rows["val"], self.batch_size)

    def test_dataloader(self) -> Batches:
        """The official test split, in its own order."""
        return Batches(self.split("test"), self.rows["test"], self.batch_size)

    def predict_dataloader(self) -> Batches:
        """The images at `images`, in the order of `self.paths`, all labelled 0."""
        if self.images is None:
            raise UserError("data.images is not set; pass --data.images FOLDER with your images")
        self.paths, self.predict_images = read_images(
            self.images, self.spec.image_shape, self.reading.background
        )
        labels = torch.zeros(len(self.predict_images), dtype=torch.int64)
        return Batches(
            cache.Split(self.predict_images, labels), torch.arange(len(labels)), self.batch_size
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment a batch and make it float, on the device it was moved to."""
        images, labels, draws = batch
        if draws is not None and self.augmentation is not None:
            images = self.augmentation(images, from_integers(draws))
        return images.float().div_(255), labels
