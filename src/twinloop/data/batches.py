"""Whole batches by index: no Python for each picture, no PIL, no worker processes."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from twinloop.data.augment import Augmentation
from twinloop.data.cache import Split
from twinloop.data.split import generator

Batch = tuple[Tensor, Tensor, Tensor | None]
"""uint8 pictures `[B, C, H, W]`, int64 labels `[B]`, and the draws of an augmentation `[B, 5]`."""


class Batches:
    """Gathers batches of `rows` of a split.

    The order of an epoch depends on (seed, epoch) and on nothing else, so a run can go on from
    any epoch, and two loops see the same batches however often each drew from torch's generator.
    Shuffled rows are drawn anew each epoch; otherwise they come in the order given.
    """

    def __init__(
        self,
        split: Split,
        rows: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.split = split
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.augmentation = augmentation
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # The epoch is read when the first batch is asked for: Lightning makes the iterator first
        # and calls set_epoch after that.
        rows, draws = self.rows, None
        if self.shuffle:
            order = torch.randperm(len(rows), generator=generator(self.seed, self.epoch, 0))
            rows = rows[order]
        if self.augmentation:
            draws = self.augmentation.draws(len(rows), self.seed, self.epoch)
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield (
                self.split.images.index_select(0, rows[part]),
                self.split.labels.index_select(0, rows[part]),
                None if draws is None else draws[part],
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iterator follows."""
        self.epoch = epoch

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for `set_epoch`."""
        return SimpleNamespace(sampler=self)
