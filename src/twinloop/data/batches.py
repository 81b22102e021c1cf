"""Batches gathered whole by index: no loop over images, no PIL, no worker processes."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from twinloop.data.augment import Augmentation, Transforms
from twinloop.data.cache import Split
from twinloop.data.resumable import Resumable
from twinloop.data.split import generator

Batch = tuple[Tensor, Tensor, Tensor | None]
"""uint8 images `[B, C, H, W]`, int64 labels `[B]`, int32 random values of an augmentation `[B, 5]`.

The random values are integers because Lightning casts every float of a batch to the training
precision, and 0.999 in bfloat16 is 1.
"""


def to_integers(random: Tensor) -> Tensor:
    """Encode uniform float32 values in [0, 1), which have 24 bits, as int32."""
    return (random * 2**24).int()


def from_integers(random: Tensor) -> Tensor:
    """Decode the float32 values from `to_integers`, exactly."""
    return random.float() / 2**24


class Batches(Resumable):
    """An iterable over batches of `rows` of a split.

    The order of an epoch depends only on (seed, epoch), so a run can resume at any epoch, and both
    loops see the same batches whatever else was drawn from torch's generator. With `shuffle` the
    order changes every epoch; without it the batches keep the order of `rows`.

    Batches are gathered on the device of the split.

    Of n processes that train together, each gathers every n-th row. Rows that do not divide evenly
    are padded with the first ones, as DistributedSampler does.
    """

    def __init__(
        self,
        split: Split,
        rows: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        augmentation: Augmentation | Transforms | None = None,
    ) -> None:
        super().__init__(seed)
        self.split = split
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augmentation = augmentation
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.processes = distributed.get_world_size() if joined else 1

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.processes / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        images, labels = self.split.images, self.split.labels
        rows, random = self._rows_of_process().to(images.device), None
        if self.augmentation:
            values = self.augmentation.random_values(len(self.rows), self.seed, self.epoch)
            random = to_integers(values)[self._share()].to(images.device)
        for number in range(self._first(), len(self)):
            self.position = number + 1
            part = self._part(number)
            yield (
                images.index_select(0, rows[part]),
                labels.index_select(0, rows[part]),
                None if random is None else random[part],
            )

    def rows_of(self, number: int) -> Tensor:
        return self._rows_of_process()[self._part(number)]

    def _rows_of_process(self) -> Tensor:
        """The rows that this process gathers, in the order of the epoch."""
        rows = self.rows
        if self.shuffle:
            order = torch.randperm(len(rows), generator=generator(self.seed, self.epoch, 0))
            rows = rows[order]
        return rows[self._share()]

    def _share(self) -> Tensor | slice:
        """The positions of an epoch that this process gathers; a slice of all for one process."""
        if self.processes == 1:
            return slice(None)
        padded = math.ceil(len(self.rows) / self.processes) * self.processes
        return torch.arange(self.rank, padded, self.processes) % len(self.rows)

    def _part(self, number: int) -> slice:
        return slice(number * self.batch_size, (number + 1) * self.batch_size)
