"""Enough is enough."""

from typing import Any

import torch
from torch import Tensor

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class EarlyStoppingCB(Callback):
    """Stops when `monitor` has not become better for `patience` passes; Lightning: `EarlyStopping`.

    Args:
        monitor: A metric's name, 'val/loss' or 'train/accuracy' say.
        mode: 'min' or 'max', whichever is better.
        patience: How many passes in a row may be no better.
        min_delta: How much better counts as better.

    Raises:
        ValueError: another mode, or a metric of neither 'train/' nor 'val/', which never comes.
    """

    follows = ("MetricsCB",)

    def __init__(
        self, monitor: str = "val/loss", mode: str = "min", patience: int = 3, min_delta: float = 0
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; it must be 'min' or 'max'")
        if not monitor.startswith(("train/", "val/")):
            raise ValueError(f"monitor is {monitor!r}; it must begin with 'train/' or 'val/'")
        self.monitor, self.mode, self.patience, self.min_delta = monitor, mode, patience, min_delta
        self.best: Tensor = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.waited = 0
        self.stopped_epoch = 0

    def after_epoch(self, learn: Learner) -> None:
        """Compare with the best so far; a number that is none stops at once."""
        if not self.monitor.startswith(f"{learn.stage}/"):
            return
        value = learn.metrics[self.monitor].cpu()
        if not value.isfinite():
            self._stop(learn)
        elif self._is_better(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                self._stop(learn)

    def _is_better(self, value: Tensor) -> bool:
        if self.mode == "min":
            return bool(value + self.min_delta < self.best)
        return bool(value - self.min_delta > self.best)

    def _stop(self, learn: Learner) -> None:
        learn.stopping = True
        self.stopped_epoch = learn.epoch

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and for how long it has been."""
        return {
            "wait_count": self.waited,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best,
            "patience": self.patience,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on waiting."""
        self.waited = state["wait_count"]
        self.stopped_epoch = state["stopped_epoch"]
        self.best = state["best_score"]
        self.patience = state["patience"]
