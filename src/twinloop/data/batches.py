"""Whole batches by index: no Python for each image, no PIL, no worker processes."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed

from twinloop.data.augment import Augmentation
from twinloop.data.cache import Split
from twinloop.data.split import generator

Batch = tuple[Tensor, Tensor, Tensor | None]
"""uint8 images `[B, C, H, W]`, int64 labels `[B]`, and an augmentation's draws, int32 `[B, 5]`.

Draws travel as integers since Lightning rounds every float of a batch to the precision it trains
in, and 0.999 in bfloat16 is 1.
"""


def to_integers(draws: Tensor) -> Tensor:
    """Uniform float32 in [0, 1), which have 24 bits, as int32."""
    return (draws * 2**24).int()


def from_integers(draws: Tensor) -> Tensor:
    """Back to the same float32."""
    return draws.float() / 2**24


class Batches:
    """Gathers batches of `rows` of a split.

    The order of an epoch depends on (seed, epoch) and on nothing else, so a run can go on from
    any epoch, and two loops see the same batches however often each drew from torch's generator.
    Shuffled rows are drawn anew each epoch; otherwise they come in the order given.

    A batch is gathered where the split lives: on the GPU, if it is there.

    Where several processes train together each gathers every n-th row, and the first rows come
    twice where they cannot be divided evenly, so that no process waits for another's batch.
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
        self.position = 0
        self._resume_at: tuple[int, int] | None = None
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.processes = distributed.get_world_size() if joined else 1

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.processes / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # The epoch is read when the first batch is asked for: Lightning makes the iterator first
        # and calls set_epoch after that.
        mine, draws = self._mine(), None
        rows = self._shuffled()[mine]
        if self.augmentation:
            draws = to_integers(self.augmentation.draws(len(self.rows), self.seed, self.epoch))
            draws = draws[mine]
        first = self._resume_at[1] if self._resume_at and self._resume_at[0] == self.epoch else 0
        self._resume_at = None
        rows = rows.to(self.split.images.device)
        draws = None if draws is None else draws.to(rows.device)
        for number in range(first, len(self)):
            self.position = number + 1
            part = self._part(number)
            yield (
                self.split.images.index_select(0, rows[part]),
                self.split.labels.index_select(0, rows[part]),
                None if draws is None else draws[part],
            )

    def rows_of(self, number: int) -> Tensor:
        """The rows of the split, `[B]`, in batch `number` of the epoch."""
        return self._shuffled()[self._mine()][self._part(number)]

    def _shuffled(self) -> Tensor:
        if not self.shuffle:
            return self.rows
        draw = generator(self.seed, self.epoch, 0)
        return self.rows[torch.randperm(len(self.rows), generator=draw)]

    def _mine(self) -> Tensor | slice:
        """Which of an epoch's rows this process gathers: all, where there is one."""
        if self.processes == 1:
            return slice(None)
        shares = math.ceil(len(self.rows) / self.processes) * self.processes
        return torch.arange(self.rank, shares, self.processes) % len(self.rows)

    def _part(self, number: int) -> slice:
        return slice(number * self.batch_size, (number + 1) * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iterator follows."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Which epoch it is, and how many of its batches were handed out."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after those batches, if the next iterator is one of the same epoch."""
        self.position = state["position"]
        self._resume_at = state["epoch"], state["position"] % len(self)

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for `set_epoch`."""
        return SimpleNamespace(sampler=self)
