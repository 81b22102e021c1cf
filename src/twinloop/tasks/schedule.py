"""Learning-rate schedules that get the length of the run from the loop.

The peak is the optimiser's own `lr`, so an experiment states it once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from twinloop.errors import UserError


class Schedule(ABC):
    """How the learning rate changes during a run."""

    needs: ClassVar[tuple[str, ...]] = ("steps", "epochs")
    """What it depends on of the run's length, which a resumed run must not change."""
    monitor: str | None = None
    """The metric that its scheduler gets at the end of an epoch."""
    frequency: int = 1
    """How many epochs are between two readings of it."""

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Share it: the command line's factories cannot be copied."""
        return self


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


AnySchedule = Schedule | LRSchedulerCallable
"""A schedule, or a factory of a scheduler that steps after every epoch: see `TorchSchedule`."""


@dataclass
class OneCycle(Schedule):
    """Up to the peak, then down to nearly 0, at every step (Smith 2018, arXiv:1803.09820).

    Args:
        warmup: The share of the steps in which the learning rate rises.
        cycle_momentum: Whether momentum, or Adam's first beta, falls while the learning rate
            rises, from 0.95 to 0.85 and back; if unset, where the optimiser has any.
    """

    needs: ClassVar[tuple[str, ...]] = ("steps",)

    warmup: float = 0.25
    cycle_momentum: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"model.schedule.warmup is {self.warmup}; it must be in [0, 1)")

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        peaks = [group["lr"] for group in optimizer.param_groups]
        # No warm-up of less than a step, because torch divides by its length.
        warmup = self.warmup if self.warmup * steps > 1 else 0.0
        momentum = self.cycle_momentum
        if momentum is None:
            momentum = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
        scheduler = OneCycleLR(
            optimizer, peaks, total_steps=steps, pct_start=warmup, cycle_momentum=momentum
        )
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
    monitor = "val/loss"

    factor: float = 0.1
    patience: int = 2

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        scheduler = ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
        return {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor}


@dataclass
class TorchSchedule(Schedule):
    """A scheduler of torch, or any other of its interface, and when it steps.

    Args:
        scheduler: Creates it from an optimiser.
        interval: Whether it steps after steps of the optimiser or after epochs.
        frequency: It steps after every so many of them. As in Lightning, those of an interval of
            steps are the batches of an epoch, where a batch ends in a step.
        monitor: The metric that a ReduceLROnPlateau reads after epochs, such as val/loss.

    Raises:
        UserError: a frequency below 1; a monitor that the scheduler does not read, or none that it
            reads; or a scheduler that ends before the run.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    scheduler: LRSchedulerCallable
    interval: Literal["step", "epoch"] = "epoch"
    frequency: int = 1
    monitor: str | None = None

    def __post_init__(self) -> None:
        if self.frequency < 1:
            raise UserError(f"model.schedule.frequency is {self.frequency}; it must be at least 1")
        # That of Lightning's ReduceLROnPlateau, which the command line keeps for its creation.
        self.monitor = self.monitor or getattr(self.scheduler, "keywords", {}).get("monitor")
        if self.monitor and self.interval == "step":
            raise UserError(
                f"model.schedule: {self.monitor} is measured in epochs; set interval to epoch"
            )

    def __call__(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        scheduler = self.scheduler(optimizer)
        name, reads = type(scheduler).__name__, isinstance(scheduler, ReduceLROnPlateau)
        if reads != bool(self.monitor):
            what = "a metric; set it, to val/loss for example" if reads else "no metric; unset it"
            raise UserError(f"model.schedule.monitor: {name} reads {what}")
        length = steps if self.interval == "step" else epochs
        total = getattr(scheduler, "total_steps", None)
        if total is not None and not 0 <= length // self.frequency <= total:
            raise UserError(
                f"model.schedule: {name} ends after {total:,} of its steps, before this run does; "
                "raise total_steps, or use twinloop.tasks.OneCycle"
            )
        return {
            "scheduler": scheduler,
            "interval": self.interval,
            "frequency": self.frequency,
            "monitor": self.monitor,
        }


class SequentialLR(lr_scheduler.SequentialLR):
    """torch's, of schedulers that an experiment file can name.

    Args:
        optimizer: The optimiser of all of them.
        schedulers: Each creates one.
        milestones: After how many steps of the scheduler the second one takes over, and so on.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int]
    ) -> None:
        super().__init__(optimizer, [create(optimizer) for create in schedulers], milestones)
