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
from twinloop.tasks import Task


class LearnerAsTrainer:
    """The attributes of `self.trainer` that a task or its data may use while the Learner trains.

    `steps` is the number of optimiser steps of the whole run; infinite if it is unlimited.
    """

    sanity_checking = False
    state = TrainerState(fn=TrainerFn.FITTING)

    def __init__(self, flags: Flags, steps: float) -> None:
        self.learn: Learner | None = None
        self.max_epochs, self.max_steps = flags["max_epochs"], flags["max_steps"]
        self.log_every_n_steps = flags["log_every_n_steps"]
        self.overfit_batches = flags["overfit_batches"]
        self.estimated_stepping_batches = steps

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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up by Python itself, as by copy
            raise AttributeError(name)
        raise UserError(
            f"the task or its data uses trainer.{name}, which the homemade loop does not provide; "
            "pass --loop lightning, or override a method of Task (inputs_and_targets, loss, count, "
            "compute)"
        )


class BatchPrepCB(Callback):
    """Prepares a batch of the data module: the inputs of the network and its targets."""

    order = cbs.TruePrecisionCB.order + 1

    def __init__(self, task: Task, data: Data, trainer: LearnerAsTrainer) -> None:
        self.task, self.data, self.trainer = task, data, trainer

    def before_batch(self, learn: Learner) -> None:
        batch = self.data.on_after_batch_transfer(learn.batch, 0)
        learn.batch = self.task.inputs_and_targets(batch)


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
