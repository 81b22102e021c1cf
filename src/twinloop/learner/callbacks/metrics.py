"""Metrics of each pass."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from twinloop.errors import UserError
from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.distributed import added_up
from twinloop.learner.callbacks.train import TrainCB
from twinloop.learner.learner import Learner
from twinloop.learner.metrics import Loss, Metric


def monitored(learn: Learner, cb: Callback, name: str) -> Tensor:
    """The metric `name`, which the callback `cb` monitors.

    Raises:
        UserError: it was not measured so far.
    """
    if name not in learn.metrics:
        there = ", ".join(sorted(learn.metrics)) or "none; add a MetricsCB"
        raise UserError(f"{type(cb).__name__}: there is no metric {name!r}; there are: {there}")
    return learn.metrics[name]


class MetricsCB(Callback):
    """Measures the loss and other metrics of each pass, in `learn.metrics` and `history`.

    A metric is anything with `update(preds, targets)`, `compute()` and `reset()`: those of
    `twinloop.learner.metrics` or of torchmetrics. Train and valid have their own copies, so that
    validation inside an epoch leaves those of train as they are.

    Args:
        unnamed: Metrics that go by the name of their class, in lower case.
        metrics: Metrics by name: `accuracy=` is measured as `train/accuracy` and `val/accuracy`.

    Raises:
        ValueError: two metrics of one name, or one with the name of the loss.
        TypeError: something that is no metric.
    """

    order = Order.METRICS

    def __init__(self, *unnamed: Any, **metrics: Any) -> None:
        named = [(type(metric).__name__.lower(), metric) for metric in unnamed]
        for name, metric in [*named, *metrics.items()]:
            if isinstance(metric, type) or not hasattr(metric, "update"):
                raise TypeError(
                    f"{name} is {metric!r}, which is no metric; it must be an object with update, "
                    "compute and reset, such as Accuracy()"
                )
        for name, metric in named:
            if name in metrics:
                raise ValueError(f"two metrics are {name!r}; name them: MetricsCB({name}=..., ...)")
            metrics[name] = metric
        if "loss" in metrics:
            raise ValueError(
                "'loss' is the mean of the Learner's loss_func, which is measured anyway; give "
                "your metric another name"
            )
        self.by_stage = {stage: deepcopy(metrics) for stage in ("train", "val")}
        self.losses = {stage: Loss() for stage in ("train", "val")}

    def before_fit(self, learn: Learner) -> None:
        self.history: list[dict[str, float]] = []  # one row per epoch

    def before_epoch(self, learn: Learner) -> None:
        self.reset(learn.stage)

    def after_loss(self, learn: Learner) -> None:
        with torch.no_grad():
            self.update(learn)

    def after_epoch(self, learn: Learner) -> None:
        """Compute, and add the epoch's row to the history after its last pass."""
        self.join(learn)
        if learn.num:
            learn.metrics |= self.compute(learn.stage)
        if learn.ends_epoch:
            row = {name: float(value) for name, value in learn.metrics.items()}
            self.history.append({"epoch": learn.epoch + 1} | row)

    def reset(self, stage: str) -> None:
        """Reset the metrics of `stage`."""
        for metric in (self.losses[stage], *self.by_stage[stage].values()):
            metric.reset()

    def join(self, learn: Learner) -> None:
        """Count what all processes have counted, as those of torchmetrics do by themselves."""
        for metric in (self.losses[learn.stage], *self.by_stage[learn.stage].values()):
            if isinstance(metric, Metric):
                metric.total = added_up(learn, metric.total)
                metric.n = int(added_up(learn, torch.tensor(metric.n)))

    def update(self, learn: Learner) -> None:
        """Add the present batch."""
        targets = learn.batch[next((cb.n_inp for cb in learn.cbs if isinstance(cb, TrainCB)), 1)]
        self.losses[learn.stage].add(learn.loss, n=len(targets))
        for metric in self.by_stage[learn.stage].values():
            if hasattr(metric, "to"):
                metric.to(learn.preds.device)
            metric.update(learn.preds.detach(), targets)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `stage` by name."""
        metrics = {"loss": self.losses[stage]} | self.by_stage[stage]
        return {f"{stage}/{name}": metric.compute() for name, metric in metrics.items()}
