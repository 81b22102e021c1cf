"""Batches gathered whole by index: no loop over images, no PIL, no worker processes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed

from twinloop.data.augment import Augmentation
from twinloop.data.cache import Split
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


class Resumable(ABC):
    """The batches of an epoch, a function of (seed, epoch), from any of them on."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._resume_at: tuple[int, int] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches in an epoch."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """The batches; the epoch is that of the moment when the first one is requested.

        Lightning creates the iterator before it calls `set_epoch`.
        """

    @abstractmethod
    def rows_of(self, number: int) -> Tensor | None:
        """The rows of the split, `[B]`, in batch `number` of the epoch, if they are known."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iterator follows."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were yielded."""
        return {"epoch": self.epoch, "position": self.position}

    def expect(self, state: dict[str, int]) -> None:
        """Note the position of a checkpoint; the loop itself skips the batches before it."""
        self.position = state["position"]

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after those batches, if the next iterator is of the same epoch."""
        self.expect(state)
        self._resume_at = state["epoch"], state["position"] % len(self)

    def _first(self) -> int:
        """The batch of the epoch to begin with, once."""
        first = self._resume_at[1] if self._resume_at and self._resume_at[0] == self.epoch else 0
        self._resume_at = None
        return first

    @property
    def batch_sampler(self) -> Any:
        """The place where Lightning looks for `set_epoch`."""
        return SimpleNamespace(sampler=self)


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
        augmentation: Augmentation | None = None,
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
