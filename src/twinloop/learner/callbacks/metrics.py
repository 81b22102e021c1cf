"""What an epoch's numbers were."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from twinloop.errors import UserError
from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner
from twinloop.learner.metrics import Loss


def monitored(learn: Learner, cb: Callback, name: str) -> Tensor:
    """The metric `name` that the callback `cb` decides by.

    Raises:
        UserError: it is not among the metrics that are there by now.
    """
    if name not in learn.metrics:
        there = ", ".join(sorted(learn.metrics)) or "none"
        raise UserError(f"{type(cb).__name__}: there is no metric {name!r}; there are: {there}")
    return learn.metrics[name]


class MetricsCB(Callback):
    """Counts the loss and other metrics over each pass, into `learn.metrics` and `history`.

    A metric is anything with `update(preds, targets)`, `compute()` and `reset()`: those of
    `twinloop.learner.metrics` or of torchmetrics. Train and valid have their own copies, so that
    validation inside an epoch leaves train's as they are.

    Args:
        metrics: By the names that they get: `accuracy=` becomes `train/accuracy`, `val/accuracy`.
    """

    def __init__(self, **metrics: Any) -> None:
        self.by_stage = {stage: deepcopy(metrics) for stage in ("train", "val")}
        self.losses = {stage: Loss() for stage in ("train", "val")}

    def before_fit(self, learn: Learner) -> None:
        """Start a new history: a row of metrics an epoch."""
        self.history: list[dict[str, float]] = []

    def before_epoch(self, learn: Learner) -> None:
        """Start counting anew."""
        self.reset(learn.stage)

    def after_loss(self, learn: Learner) -> None:
        """Count a batch."""
        with torch.no_grad():
            self.update(learn)

    def after_epoch(self, learn: Learner) -> None:
        """Compute; an epoch's row is whole when its last pass is."""
        if learn.num:
            learn.metrics |= self.compute(learn.stage)
        if learn.ends_epoch:
            row = {name: float(value) for name, value in learn.metrics.items()}
            self.history.append({"epoch": learn.epoch + 1} | row)

    def reset(self, stage: str) -> None:
        """Forget what was counted of `stage`."""
        for metric in (self.losses[stage], *self.by_stage[stage].values()):
            metric.reset()

    def update(self, learn: Learner) -> None:
        """Count the batch that the Learner has now."""
        targets = learn.batch[1]
        self.losses[learn.stage].add(learn.loss, n=len(targets))
        for metric in self.by_stage[learn.stage].values():
            if hasattr(metric, "to"):
                metric.to(learn.preds.device)
            metric.update(learn.preds.detach(), targets)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `stage` by name."""
        metrics = {"loss": self.losses[stage]} | self.by_stage[stage]
        return {f"{stage}/{name}": metric.compute() for name, metric in metrics.items()}
