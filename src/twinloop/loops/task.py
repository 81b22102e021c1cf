"""Train a task by the Learner: its batches, its metrics, and a stand-in for its Trainer."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from torch import Tensor
from torchmetrics import Metric

from twinloop.data.protocol import Data
from twinloop.errors import UserError
from twinloop.learner import Callback, Learner
from twinloop.learner import callbacks as cbs
from twinloop.loops.flags import Flags
from twinloop.processes import is_first
from twinloop.tasks import Task


class LearnerAsTrainer:
    """The attributes of a Trainer that a task, its data or a callback may use in a Learner's fit.

    `steps` is the number of optimiser steps of the whole run; infinite if it is unlimited.
    """

    batch: Any = None  # as loaded and augmented
    sanity_checking = False
    state = TrainerState(fn=TrainerFn.FITTING)

    def __init__(self, flags: Flags, steps: float) -> None:
        self.learn: Learner | None = None
        self.max_epochs, self.max_steps = flags["max_epochs"], flags["max_steps"]
        self.log_every_n_steps = flags["log_every_n_steps"]
        self.loggers = flags.loggers
        self.logger = self.loggers[0] if self.loggers else None
        self.overfit_batches = flags["overfit_batches"]
        self.estimated_stepping_batches = steps
        self.is_global_zero = is_first()

    @property
    def current_epoch(self) -> int:
        return self.learn.epoch if self.learn else 0

    @property
    def global_step(self) -> int:
        return self.learn.steps if self.learn else 0

    @property
    def training(self) -> bool:
        return self.learn is not None and self.learn.training

    @property
    def validating(self) -> bool:
        return not self.training

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        return self.learn.metrics if self.learn else {}

    @property
    def optimizers(self) -> list[Any]:
        return [self.learn.opt] if self.learn else []

    @property
    def should_stop(self) -> bool:
        return self.learn is not None and self.learn.stopping

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up by Python itself, as by copy
            raise AttributeError(name)
        used = "self.log" if name == "barebones" else f"trainer.{name}"  # what `log` asks first
        raise UserError(
            f"the task, its data or a callback uses {used}, which the homemade loop does not "
            "provide; pass --loop lightning, or override a method of Task (inputs_and_targets, "
            "loss, count, compute)"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set what the Learner would not read, by the same error."""
        if vars(self).get("learn") is not None and name not in ("learn", "batch"):
            self.__getattr__(name)
        super().__setattr__(name, value)


class BatchPrepCB(Callback):
    """Prepares a batch of the data module: the inputs of the network and its targets."""

    order = cbs.TruePrecisionCB.order + 1

    def __init__(self, task: Task, data: Data, trainer: LearnerAsTrainer) -> None:
        self.task, self.data, self.trainer = task, data, trainer

    def before_batch(self, learn: Learner) -> None:
        self.trainer.batch = self.data.on_after_batch_transfer(learn.batch, 0)
        learn.batch = self.task.inputs_and_targets(self.trainer.batch)


class TaskMetricsCB(cbs.MetricsCB):
    """Counts and computes the task's own metrics."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def before_fit(self, learn: Learner) -> None:
        """Drop the counts of an interrupted fit; move the metrics to the device of the weights."""
        super().before_fit(learn)
        for metric in self.task.modules():
            if isinstance(metric, Metric):
                metric.reset()
        self.task.to(next(self.task.network.parameters()).device)

    def reset(self, stage: str) -> None:
        """Do nothing: the task resets in `compute`, and a resumed epoch keeps its counts."""

    def update(self, learn: Learner) -> None:
        self.task.count(learn.stage, learn.preds, learn.batch[1], learn.loss)

    def compute(self, stage: str) -> dict[str, Tensor]:
        return self.task.compute(stage)
