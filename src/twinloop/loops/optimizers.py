"""The optimiser and the scheduler of a task, made anew for each fit of a Learner."""

from typing import Any

from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    _validate_optimizers_attached,
    _validate_scheduler_api,
)
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from twinloop.errors import UserError
from twinloop.learner import Callback
from twinloop.loops.counterparts import scheduler_callback
from twinloop.tasks import Task
from twinloop.tasks.optimizer import check_optimizer, needs_closure


class TaskOptimizers:
    """Makes a task's optimiser for each fit of a Learner, and with it the scheduler of that fit.

    Args:
        task: Its `configure_optimizers` gives both.

    Raises:
        UserError: several optimisers or schedulers, or one that the Learner cannot step.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        optimizer, self.config = _optimizer_and_scheduler(task)
        self.lr = _peak(optimizer)

    def __call__(self, parameters: Any, lr: float) -> Optimizer:
        """Make an optimiser of the network's parameters at the rate `lr`.

        Raises:
            UserError: another rate than the task's own, where the task does not ask for one.
        """
        own = self.task.optimizer

        def at_rate(weights: Any) -> Optimizer:
            optimizer = own(weights)
            for group in optimizer.param_groups:
                group["lr"] = lr * (group["lr"] / self.lr)
            return optimizer

        try:
            if lr != self.lr:
                self.task.optimizer = at_rate
            optimizer, self.config = _optimizer_and_scheduler(self.task)
        finally:
            self.task.optimizer = own
        if lr != self.lr and _peak(optimizer) == self.lr:
            name = f"{type(self.task).__name__}.configure_optimizers"
            raise UserError(
                f"the Learner's rate is {lr:g}, but {name} does not use self.optimizer and gives "
                f"{self.lr:g}; change the rate there"
            )
        return optimizer

    def scheduler_callbacks(self) -> list[Callback]:
        """The callback that steps the scheduler of each fit, if the task has one."""
        if self.config is None:
            return []
        return [scheduler_callback(self.config, lambda _: self.config and self.config.scheduler)]


def _peak(optimizer: Optimizer) -> float:
    """The peak learning rate of the schedule, or the constant rate if there is none."""
    group = optimizer.param_groups[0]
    peak: float = group.get("max_lr", group.get("initial_lr", group["lr"]))
    return peak


def _optimizer_and_scheduler(task: Task) -> tuple[Optimizer, LRSchedulerConfig | None]:
    """The result of the task's `configure_optimizers`, in any of the forms that Lightning accepts.

    Raises:
        UserError: several optimisers or schedulers, or one without a counterpart.
    """
    configured: Any = task.configure_optimizers()
    optimizers, schedulers, monitor = _configure_optimizers(configured)
    configs = _configure_schedulers_automatic_opt(schedulers, monitor)
    if len(optimizers) != 1 or len(configs) > 1:
        raise UserError(
            f"configure_optimizers gives {len(optimizers)} optimisers and {len(configs)} "
            "schedulers; the homemade loop has one of each; pass --loop lightning"
        )
    optimizer = optimizers[0]
    check_optimizer(optimizer)
    if needs_closure(optimizer):
        raise UserError(
            f"model.optimizer: {type(optimizer).__name__} computes the loss several times a step "
            "by a closure, which the homemade loop has no counterpart for; pass --loop lightning"
        )
    _validate_optimizers_attached(optimizers, configs)
    _validate_scheduler_api(configs, task)
    config = configs[0] if configs else None
    if config and config.reduce_on_plateau and config.interval != "epoch":
        raise UserError(
            f"model.schedule: the homemade loop steps a {type(config.scheduler).__name__} after "
            "epochs, and here its interval is step; set it to epoch, or pass --loop lightning"
        )
    if config and (config.name is not None or not config.strict):
        raise UserError(
            "configure_optimizers: the homemade loop has no counterpart for name and strict of a "
            "scheduler; unset them, or pass --loop lightning"
        )
    return optimizer, config
