"""Learning-rate schedules: by the step, by the epoch, or by a metric."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.metrics import monitored
from twinloop.learner.learner import Learner


class SchedCB(Callback):
    """Makes a scheduler for the Learner's optimiser; subclasses say when it takes a step.

    Args:
        sched_func: `optimiser -> scheduler`, such as those of `torch.optim.lr_scheduler`.
        every: It takes only every so many of its steps; Lightning: `frequency`.
    """

    order: int = Order.PREPARE
    opt_needs = ("param_groups", "state_dict")

    def __init__(self, sched_func: Callable[[Optimizer], Any], every: int = 1) -> None:
        self.sched_func, self.every = sched_func, every

    def before_fit(self, learn: Learner) -> None:
        self.sched: Any = self.sched_func(learn.opt)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.sched.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sched.load_state_dict(state)


class BatchSchedCB(SchedCB):
    """Sets the learning rate after each step; Lightning: `interval: step`.

    As in Lightning `every` counts batches of the epoch, and those that end in no step are left out.
    """

    def after_step(self, learn: Learner) -> None:
        if (learn.num + 1) % self.every == 0:
            self.sched.step()


class EpochSchedCB(SchedCB):
    """Sets the learning rate after an epoch's last batch; Lightning: `interval: epoch`."""

    def after_batch(self, learn: Learner) -> None:
        """Step before the validation that comes after this batch, as Lightning does."""
        ends = learn.num + 1 == learn.n_batches
        if learn.training and ends and (learn.epoch + 1) % self.every == 0:
            self.sched.step()


class PlateauSchedCB(SchedCB):
    """Lowers the learning rate when `monitor` no longer improves; Lightning: `ReduceLROnPlateau`.

    As in Lightning it steps after the epoch's checkpoint, which so does not know of the epoch's
    metric.
    """

    order = Order.SAVE + 1

    def __init__(
        self,
        sched_func: Callable[[Optimizer], ReduceLROnPlateau],
        monitor: str = "val/loss",
        every: int = 1,
    ) -> None:
        super().__init__(sched_func, every)
        self.monitor = monitor

    def after_epoch(self, learn: Learner) -> None:
        """Step, unless the epoch was cut short."""
        whole = learn.ends_epoch and learn.num == learn.n_batches
        if whole and (learn.epoch + 1) % self.every == 0:
            self.sched.step(monitored(learn, self, self.monitor))
