"""A short version of the lesson's Learner, as a contestant; ours is in twinloop.learner."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy


class Callback:
    """Has methods named after events; a smaller `order` is called first."""

    order = 0


class Learner:
    """The loop, with callbacks around fit, epoch and batch."""

    def __init__(
        self,
        model: nn.Module,
        loaders: tuple[Any, Any],
        loss_func: Callable[..., Any],
        opt: torch.optim.Optimizer,
        cbs: list[Callback],
    ) -> None:
        self.model, self.loaders, self.loss_func = model, loaders, loss_func
        self.opt, self.cbs = opt, cbs
        self.epoch = 0

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Call `before_` and `after_` events around a part of the fit."""
        self.callback(f"before_{name}")
        yield
        self.callback(f"after_{name}")

    def callback(self, event: str) -> None:
        """Call the method `event` of all callbacks that have it, in order."""
        for cb in sorted(self.cbs, key=attrgetter("order")):
            method = getattr(cb, event, None)
            if method is not None:
                method(self)

    def fit(self, n_epochs: int) -> None:
        """Train, then validate, `n_epochs` times."""
        with self.around("fit"):
            for self.epoch in range(n_epochs):
                self.one_epoch(True)
                with torch.no_grad():
                    self.one_epoch(False)

    def one_epoch(self, train: bool) -> None:
        """One pass over a loader."""
        self.model.train(train)
        self.loader = self.loaders[0 if train else 1]
        with self.around("epoch"):
            for batch in self.loader:
                self.batch = batch
                self.one_batch()

    def one_batch(self) -> None:
        """Predict and compute the loss; in training also backward and step."""
        with self.around("batch"):
            self.preds = self.model(self.batch[0])
            self.loss = self.loss_func(self.preds, self.batch[1])
            if self.model.training:
                self.callback("after_loss")
                self.loss.backward()
                self.opt.step()
                self.opt.zero_grad()


class DeviceCB(Callback):
    """Moves batches to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def before_batch(self, learn: Learner) -> None:
        learn.batch = [part.to(self.device) for part in learn.batch]


class MetricsCB(Callback):
    """Measures loss and accuracy, and prints a line per pass."""

    order = 1

    def __init__(self, classes: int | None, device: torch.device) -> None:
        self.metrics: dict[str, Any] = {"loss": MeanMetric().to(device)}
        if classes:
            self.metrics["accuracy"] = MulticlassAccuracy(classes, average="micro").to(device)

    def before_epoch(self, learn: Learner) -> None:
        for metric in self.metrics.values():
            metric.reset()

    def after_batch(self, learn: Learner) -> None:
        inputs, targets = learn.batch
        self.metrics["loss"].update(learn.loss.detach(), weight=len(inputs))
        if "accuracy" in self.metrics:
            self.metrics["accuracy"].update(learn.preds.detach(), targets)

    def after_epoch(self, learn: Learner) -> None:
        numbers = {name: f"{float(m.compute()):.3f}" for name, m in self.metrics.items()}
        print(numbers | {"epoch": learn.epoch, "train": learn.model.training})


class BatchSchedCB(Callback):
    """Steps the learning-rate schedule after each training batch."""

    def __init__(self, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.schedule = schedule

    def after_batch(self, learn: Learner) -> None:
        if learn.model.training:
            self.schedule.step()
