"""A task as the Learner trains it: its batches, its metrics, and what it may ask of a Trainer."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, Learner
from twinloop.learner import callbacks as cbs
from twinloop.loops.flags import Flags
from twinloop.tasks import Task


class LearnerAsTrainer:
    """What a task may ask of `self.trainer` while the Learner trains it.

    Args:
        flags: The Trainer's.
        steps: The optimiser's steps of the whole run, infinite where it has no end.
    """

    sanity_checking = False
    state = TrainerState(fn=TrainerFn.FITTING)

    def __init__(self, flags: Flags, steps: float) -> None:
        self.learn: Learner | None = None
        self.max_epochs, self.max_steps = flags["max_epochs"], flags["max_steps"]
        self.log_every_n_steps = flags["log_every_n_steps"]
        self.estimated_stepping_batches = steps

    @property
    def current_epoch(self) -> int:
        """The epoch, counted from 0."""
        return self.learn.epoch if self.learn else 0

    @property
    def global_step(self) -> int:
        """The optimiser's steps so far."""
        return self.learn.steps if self.learn else 0

    @property
    def training(self) -> bool:
        """Whether this pass goes through train."""
        return self.learn is not None and self.learn.training

    @property
    def validating(self) -> bool:
        """Whether this pass goes through val."""
        return not self.training

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks whether there is a method, for a copy say
            raise AttributeError(name)
        raise UserError(
            f"the task asks for trainer.{name}, which the homemade loop has not; pass --loop "
            "lightning, or let a method of Task do it (inputs_and_targets, loss, count, compute)"
        )


class BatchPrepCB(Callback):
    """A batch of the data module as what goes into the network and what should come out."""

    order = cbs.TruePrecisionCB.order + 1

    def __init__(self, task: Task, data: ImageDataModule, trainer: LearnerAsTrainer) -> None:
        self.task, self.data, self.trainer = task, data, trainer

    def before_batch(self, learn: Learner) -> None:
        """Floats from bytes; noise, where the task has any."""
        images = self.data.on_after_batch_transfer(learn.batch, 0)
        learn.batch = self.task.inputs_and_targets(images)


class TaskMetricsCB(cbs.MetricsCB):
    """The metrics that the task has, in place of metrics of the callback's own."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def before_fit(self, learn: Learner) -> None:
        """Forget what a fit that was broken off has counted; count where the weights are."""
        super().before_fit(learn)
        for metric in self.task.children():
            if isinstance(metric, Metric | MetricCollection):
                metric.reset()
        self.task.to(next(self.task.network.parameters()).device)

    def reset(self, stage: str) -> None:
        """Nothing: the task forgets when it computes, and an epoch may go on in its middle."""

    def update(self, learn: Learner) -> None:
        """Count the batch that the Learner has now."""
        self.task.count(learn.stage, learn.preds, learn.batch[1], learn.loss)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `stage` by name."""
        return self.task.compute(stage)
