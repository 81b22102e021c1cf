"""Learning-rate schedules that get the length of the run from the loop.

The peak is the optimiser's own `lr`, so an experiment states it once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from twinloop.errors import UserError


class Schedule(ABC):
    """How the learning rate changes during a run."""

    needs: ClassVar[tuple[str, ...]] = ("steps", "epochs")
    """What it depends on of the run's length, which a resumed run must not change."""
    monitor: ClassVar[str | None] = None
    """The metric that its scheduler gets after each validation."""

    @abstractmethod
    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Create Lightning's configuration of a scheduler for a run of `steps` optimiser steps."""

    def plan(self, steps: float, epochs: int | None) -> dict[str, float]:
        """What the schedule depends on, of a run of `steps` optimiser steps in `epochs` epochs.

        Raises:
            UserError: it is unknown: infinite steps; None or -1 epochs.
        """
        length = {"steps": None if steps == float("inf") else steps, "epochs": epochs}
        plan = {name: known for name in self.needs if (known := length[name]) not in (None, -1)}
        if len(plan) < len(self.needs):
            raise UserError(
                "model.schedule needs to know how long the run is; set trainer.max_epochs"
            )
        return plan


def check_plan(now: Mapping[str, float], then: Mapping[str, float]) -> None:
    """Check that a resumed run has the length that its schedule was planned for.

    Raises:
        UserError: it has another one.
    """
    for name, length in now.items():
        if (planned := then.get(name, length)) != length:
            raise UserError(
                f"model.schedule was planned for {planned:,} {name}, and this run has {length:,}; "
                "pass the trainer.max_epochs, trainer.max_steps and data.batch_size it started "
                "with, or begin a new run with --weights"
            )


@dataclass
class OneCycle(Schedule):
    """Up to the peak, then down to nearly 0, at every step (Smith 2018, arXiv:1803.09820).

    `warmup` is the share of the steps in which the learning rate rises.
    """

    needs: ClassVar[tuple[str, ...]] = ("steps",)

    warmup: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"model.schedule.warmup is {self.warmup}; it must be in [0, 1)")

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        peaks = [group["lr"] for group in optimizer.param_groups]
        # No warm-up of less than a step, because torch divides by its length.
        warmup = self.warmup if self.warmup * steps > 1 else 0.0
        scheduler = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warmup)
        return {"scheduler": scheduler, "interval": "step"}


@dataclass
class Cosine(Schedule):
    """Half a cosine down to 0, at every epoch (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    needs: ClassVar[tuple[str, ...]] = ("epochs",)

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        return {"scheduler": CosineAnnealingLR(optimizer, T_max=epochs), "interval": "epoch"}


@dataclass
class Plateau(Schedule):
    """Multiply by `factor` when `val/loss` has not decreased for more than `patience` epochs."""

    needs: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[str | None] = "val/loss"

    factor: float = 0.1
    patience: int = 2

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        scheduler = ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
        return {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor}
