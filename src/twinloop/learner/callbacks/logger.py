"""Scalars for loggers, by the names, and at the steps, of Lightning's."""

from collections.abc import Iterable
from typing import Any, Protocol

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class Logger(Protocol):
    """What `LoggerCB` needs of a logger; all of Lightning's have it."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log values by name, at a step of the optimiser."""

    def save(self) -> None:
        """Write what was logged."""


class LoggerCB(Callback):
    """Logs loss and learning rate every few steps, and every metric at the end of its pass.

    Lightning: `logger`, `LearningRateMonitor`. The x axis is in steps of the optimiser.

    Args:
        loggers: Lightning's, or others with `log_metrics` and `save`.
        every: Steps from one point of a curve to the next; with 0 there are none.
    """

    order = Order.REPORT
    opt_needs = ("param_groups",)

    def __init__(self, loggers: Iterable[Logger], every: int = 10) -> None:
        self.loggers = list(loggers)
        self.every = every
        self.at = 0

    def before_epoch(self, learn: Learner) -> None:
        """Begin with the latest step, also where a run is resumed inside an epoch."""
        if learn.training:
            self.at = max(learn.steps - 1, 0)

    def before_batch(self, learn: Learner) -> None:
        """Log the learning rates of the next step."""
        if learn.training:
            self.at = learn.steps
            if self.is_due():
                name, groups = f"lr-{type(learn.opt).__name__}", learn.opt.param_groups
                names = [f"{name}/pg{n}" for n in range(1, len(groups) + 1)]
                rates = [group["lr"] for group in groups]
                self.log(dict(zip(names if len(groups) > 1 else [name], rates, strict=True)))

    def after_loss(self, learn: Learner) -> None:
        self.loss = learn.loss.detach()

    def after_batch(self, learn: Learner) -> None:
        """Log the loss of a batch that ended in a step."""
        if learn.training and learn.steps > self.at and self.is_due():
            self.log({"train/loss_step": float(self.loss), "epoch": learn.epoch})

    def after_epoch(self, learn: Learner) -> None:
        """Log the metrics of the pass; those of train at the latest step."""
        if learn.training:
            self.at = learn.steps - 1
        stage = f"{learn.stage}/"
        metrics = {k: float(v) for k, v in learn.metrics.items() if k.startswith(stage)}
        if metrics:
            self.log(metrics | {"epoch": learn.epoch})
        self.save()

    def cleanup_fit(self, learn: Learner) -> None:
        self.save()

    def is_due(self) -> bool:
        """Whether this step has a point on the curves."""
        return self.every > 0 and (self.at + 1) % self.every == 0

    def log(self, metrics: dict[str, Any]) -> None:
        """Log values by name, at the present step."""
        for logger in self.loggers:
            logger.log_metrics(metrics, self.at)

    def save(self) -> None:
        for logger in self.loggers:
            logger.save()


class TensorBoardCB(LoggerCB):
    """The same for TensorBoard alone, without Lightning.

    Args:
        writer: Writes to the folder of the run.
        every: As of `LoggerCB`.

    Raises:
        TypeError: no writer.
    """

    def __init__(self, writer: SummaryWriter, every: int = 10) -> None:
        if not hasattr(writer, "add_scalar"):
            raise TypeError(f"writer is {writer!r}; it must be a SummaryWriter(folder)")
        super().__init__([], every)
        self.writer = writer

    def log(self, metrics: dict[str, Any]) -> None:
        for tag, value in metrics.items():
            self.writer.add_scalar(tag, value, self.at)

    def save(self) -> None:
        self.writer.flush()
