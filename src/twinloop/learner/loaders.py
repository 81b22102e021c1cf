"""Batches that feed a Learner: of a data module, of a dict data set, or of two loaders."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate


class DataLoaders(NamedTuple):
    """Batches `(xb, yb)` for training and for validation; both have a length."""

    train: Any
    valid: Any

    @classmethod
    def of(cls, loaders: Any) -> Any:
        """A plain pair of loaders by these names; whatever has the names is left as it is.

        Raises:
            TypeError: neither a pair nor an object with the names.
        """
        if hasattr(loaders, "train") and hasattr(loaders, "valid"):
            return loaders
        if not isinstance(loaders, tuple | list) or len(loaders) != 2:
            raise TypeError(
                f"dls is {type(loaders).__name__}; it must be DataLoaders(train, valid), or a pair "
                "of loaders"
            )
        return cls(*loaders)

    @classmethod
    def from_data(
        cls, data: Any, *, autoencoder: bool = False, device: str | torch.device | None = None
    ) -> Self:
        """Load what an `ImageDataModule` has: float32 images in [0, 1] and int64 labels.

        Train is shuffled and augmented anew in each epoch, also of a second fit, and in each pass
        of a loop by hand.

        Args:
            data: The data module.
            autoencoder: The images are the targets too: `(xb, xb)`.
            device: Where batches are gathered and augmented; the CPU if unset.
        """
        data.device = torch.device(device or data.device)
        loaders = data.train_batches(), data.val_dataloader()
        return cls(*(ImageBatches(data, batches, autoencoder) for batches in loaders))

    @classmethod
    def from_dd(cls, dd: Any, batch_size: int, **options: Any) -> Self:
        """Load a dict of two data sets whose rows are dicts, train first, as `datasets` has them.

        A batch has the columns in their order. `options` are those of torch's `DataLoader`.
        """
        train, valid = list(dd.values())[:2]
        options = {"collate_fn": collate_dict(train)} | options
        return cls(
            DataLoader(train, batch_size, shuffle=True, **options),
            DataLoader(valid, 2 * batch_size, **options),  # without gradients twice as many fit
        )


def forward(model: nn.Module, *inputs: Any) -> Any:
    """Give `model(*inputs)`.

    Raises:
        TypeError: an input is bytes, which its layers do not take.
    """
    try:
        return model(*inputs)
    except RuntimeError as error:
        if any(name in str(error) for name in ("Byte", "unsigned char")):  # as torch calls them
            raise TypeError(
                "the batch is bytes (uint8), which the model does not take; DataLoaders.from_data "
                "gives floats in [0, 1], as xb.float() / 255 would"
            ) from error
        raise


def collate_dict(ds: Any) -> Callable[[list[dict[str, Any]]], tuple[Any, ...]]:
    """Make what collates rows that are dicts to a tuple of the columns of `ds`, in their order."""
    columns = itemgetter(*(ds.features if hasattr(ds, "features") else ds[0]))

    def collate(rows: list[dict[str, Any]]) -> tuple[Any, ...]:
        batch: tuple[Any, ...] = columns(default_collate(rows))
        return batch

    return collate


class ImageBatches:
    """A data module's batches, as floats; each pass is the next epoch unless one is set.

    Args:
        data: Turns bytes into floats, and augments them.
        batches: The bytes.
        autoencoder: Whether the images are the targets.
    """

    def __init__(self, data: Any, batches: Any, autoencoder: bool) -> None:
        self.data, self.batches, self.autoencoder = data, batches, autoencoder
        self.set_epoch = batches.set_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for number, batch in enumerate(self.batches):
            if number == 0:  # the order of this pass is drawn by now
                self.batches.set_epoch(self.batches.epoch + 1)
            images, labels = self.data.on_after_batch_transfer(batch, 0)
            yield images, images if self.autoencoder else labels
