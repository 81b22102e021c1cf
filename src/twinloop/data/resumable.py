"""Batches and data modules that continue inside an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor


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


class ResumableData(LightningDataModule):
    """A data module whose checkpoint has the position in train.

    Args:
        seed: Seed of all its random values.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.device = torch.device("cpu")
        self._train: Resumable | None = None
        self._resumed: dict[str, int] | None = None

    @abstractmethod
    def train_batches(self, *, overfit: bool = False) -> Resumable:
        """The batches of train, in the same order in every epoch if `overfit` is true."""

    def setup(self, stage: str) -> None:
        """Take over the device of the Trainer, if there is one; it is the CPU unless set."""
        if self.trainer is not None:
            self.device = self.trainer.strategy.root_device

    def train_dataloader(self) -> Resumable:
        """`train_batches` by the Trainer's flag `overfit_batches`."""
        self._train = self.train_batches(overfit=getattr(self.trainer, "overfit_batches", 0) > 0)
        if self._resumed is not None:
            self._train.load_state_dict(self._resumed)
            self._resumed = None
        return self._train

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, for a checkpoint."""
        return {"train": self._train.state_dict()} if self._train is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next train loader at the position of a checkpoint."""
        # Lightning restores a loader itself, but not one that a schedule has requested before.
        self._resumed = state_dict["train"]

    def expect(self, state: dict[str, Any]) -> None:
        """The same for the train loader that there is, whose batches the loop skips."""
        assert self._train is not None
        self._train.expect(state["train"])
