"""Learning-rate schedules that learn the length of the run from the loop.

Each is called with the optimiser, the optimiser steps of the whole run and its epochs, and
answers with Lightning's description of a scheduler. The peak is the optimiser's own `lr`, so an
experiment states it once.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from twinloop.errors import UserError


class Schedule(ABC):
    """How the learning rate moves during a run."""

    needs: ClassVar[tuple[str, ...]] = ("steps", "epochs")
    """What of the run's length it is planned for; a resumed run has the same."""
    monitor: ClassVar[str | None] = None
    """The metric that it is shown after each epoch."""

    @abstractmethod
    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Describe the scheduler of a run of `steps` optimiser steps in `epochs` epochs."""


@dataclass
class OneCycle(Schedule):
    """Up to the peak, then down to nearly 0, step by step (Smith 2018, arXiv:1803.09820).

    `warmup` is the share of the run that goes up.
    """

    needs: ClassVar[tuple[str, ...]] = ("steps",)

    warmup: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"model.schedule.warmup is {self.warmup}; it must be in [0, 1)")

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Step with every optimiser step."""
        peaks = [group["lr"] for group in optimizer.param_groups]
        # torch divides by the length of the way up, which is left out where there is no room.
        warmup = self.warmup if self.warmup * steps > 1 else 0.0
        scheduler = OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warmup)
        return {"scheduler": scheduler, "interval": "step"}


@dataclass
class Cosine(Schedule):
    """Down along half a cosine, epoch by epoch (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    needs: ClassVar[tuple[str, ...]] = ("epochs",)

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Step with every epoch."""
        return {"scheduler": CosineAnnealingLR(optimizer, T_max=epochs), "interval": "epoch"}


@dataclass
class Plateau(Schedule):
    """Times `factor` whenever `val/loss` has not fallen for more than `patience` epochs."""

    needs: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[str | None] = "val/loss"

    factor: float = 0.1
    patience: int = 2

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Step with every validation."""
        scheduler = ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
        return {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor}
