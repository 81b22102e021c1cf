"""How the learning rate moves: by the batch, by the epoch, or when a metric stands still."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinloop.learner.callback import Callback
from twinloop.learner.callbacks.metrics import monitored
from twinloop.learner.learner import Learner


class SchedCB(Callback):
    """What the three share: they make a scheduler for the Learner's optimiser.

    Args:
        sched_func: `optimiser -> scheduler`, as of `torch.optim.lr_scheduler`.
    """

    def __init__(self, sched_func: Callable[[Optimizer], Any]) -> None:
        self.sched_func = sched_func

    def before_fit(self, learn: Learner) -> None:
        """Make the scheduler."""
        self.sched: Any = self.sched_func(learn.opt)

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler is."""
        state: dict[str, Any] = self.sched.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where it was."""
        self.sched.load_state_dict(state)


class BatchSchedCB(SchedCB):
    """Moves the learning rate after each step; Lightning: `interval: step`."""

    def after_step(self, learn: Learner) -> None:
        """Move it."""
        self.sched.step()


class EpochSchedCB(SchedCB):
    """Moves the learning rate after an epoch's last batch; Lightning: `interval: epoch`."""

    precedes = ("ValidateCB",)

    def after_batch(self, learn: Learner) -> None:
        """Move it, before validation as Lightning does."""
        if learn.training and learn.num + 1 == learn.n_batches:
            self.sched.step()


class PlateauSchedCB(SchedCB):
    """Lowers the learning rate when `monitor` has stood still; Lightning: `ReduceLROnPlateau`.

    It comes after the epoch's checkpoint, as in Lightning, so that a checkpoint of an epoch's end
    does not know of that epoch's metric.
    """

    follows = ("MetricsCB", "CheckpointCB")

    def __init__(
        self, sched_func: Callable[[Optimizer], ReduceLROnPlateau], monitor: str = "val/loss"
    ) -> None:
        super().__init__(sched_func)
        self.monitor = monitor

    def after_epoch(self, learn: Learner) -> None:
        """Show the scheduler how the epoch went, unless it was cut short."""
        if learn.ends_epoch and learn.num == learn.n_batches:
            self.sched.step(monitored(learn, self, self.monitor))
