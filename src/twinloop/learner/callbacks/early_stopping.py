"""Early stopping: end a fit whose metric no longer improves."""

from enum import Enum
from typing import Any, Literal

import torch
from torch import Tensor

from twinloop.errors import UserError
from twinloop.learner.callback import Callback
from twinloop.learner.callbacks.distributed import added_up
from twinloop.learner.callbacks.metrics import MetricsCB, monitored
from twinloop.learner.callbacks.validate import ValidateCB
from twinloop.learner.learner import Learner

When = Literal["pass", "validation", "epoch"]
"""After each pass over the stage of the metric, each validation, or each whole epoch."""


class Reason(Enum):
    """Why a fit was stopped; numbers as in Lightning's checkpoints."""

    NONE, THRESHOLD, DIVERGENCE, PATIENCE, NOT_FINITE = range(5)

    def __bool__(self) -> bool:
        return self is not Reason.NONE


class EarlyStoppingCB(Callback):
    """Stops when `monitor` has not improved for `patience` checks; Lightning: `EarlyStopping`.

    Args:
        monitor: The name of a metric, such as 'val/loss' or 'train/accuracy'.
        mode: 'min' or 'max': which value of the metric is better.
        patience: The number of checks in a row without improvement that ends the fit.
        min_delta: The least change that counts as an improvement.
        strict: Whether a missing metric is an error; else the check is skipped.
        check_finite: Stop at a value that is NaN or infinite.
        stopping_threshold: Stop at a value better than this.
        divergence_threshold: Stop at a value worse than this.
        when: When to check.

    Raises:
        ValueError: another mode, or a metric of neither 'train/' nor 'val/', which is never there.
        UserError: no such metric at a check that is strict, or a fit without such a check.
    """

    order = MetricsCB.order + 1

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: str = "min",
        patience: int = 3,
        min_delta: float = 0,
        *,
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        when: When = "pass",
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; it must be 'min' or 'max'")
        if when == "pass" and not str(monitor).startswith(("train/", "val/")):
            raise ValueError(f"monitor is {monitor!r}; it must begin with 'train/' or 'val/'")
        self.monitor, self.mode, self.patience, self.min_delta = monitor, mode, patience, min_delta
        self.strict, self.check_finite, self.when = strict, check_finite, when
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.forget()

    def forget(self) -> None:
        """Begin to wait anew."""
        self.best: Tensor = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        self.waited = 0
        self.stopped_epoch = 0
        self.reason = Reason.NONE

    def before_fit(self, learn: Learner) -> None:
        """Forget the last fit, whose patience has run out; refuse one that is never checked."""
        self.forget()
        inside = any(isinstance(cb, ValidateCB) for cb in learn.cbs)
        passes = {"train/": True in learn.passes, "val/": inside or False in learn.passes}
        missing = [stage for stage, is_there in passes.items() if not is_there]
        if self.strict and self.when == "pass" and self.monitor.startswith(tuple(missing)):
            raise UserError(
                f"EarlyStoppingCB: a fit without {self.monitor.partition('/')[0]} never measures "
                f"{self.monitor!r}; monitor another metric, or remove this callback"
            )

    def after_epoch(self, learn: Learner) -> None:
        due = {
            "pass": self.monitor.startswith(f"{learn.stage}/"),
            "validation": not learn.training,
            "epoch": learn.ends_epoch,
        }
        if not due[self.when] or (self.monitor not in learn.metrics and not self.strict):
            return
        self.reason = self._reason(monitored(learn, self, self.monitor).cpu())
        if added_up(learn, torch.tensor(bool(self.reason)).int()):  # the others would wait for us
            self.stopped_epoch = learn.epoch
            learn.stopping = True

    def _reason(self, value: Tensor) -> Reason:
        """Check one value of the metric: why to stop, if at all."""
        if self.check_finite and not value.isfinite():
            return Reason.NOT_FINITE
        if self.stopping_threshold is not None and self._is_better(value, self.stopping_threshold):
            return Reason.THRESHOLD
        limit = self.divergence_threshold
        if limit is not None and self._is_better(-value, -limit):
            return Reason.DIVERGENCE
        delta = self.min_delta if self.mode == "min" else -self.min_delta
        if self._is_better(value + delta, self.best):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return Reason.PATIENCE if self.waited >= max(self.patience, 1) else Reason.NONE

    def _is_better(self, value: Tensor, other: Tensor | float) -> bool:
        return bool(value < other if self.mode == "min" else value > other)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and the checks since, by the names in Lightning's checkpoints."""
        return {
            "wait_count": self.waited,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best,
            "patience": self.patience,
            "stopping_reason": self.reason.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.waited = state["wait_count"]
        self.stopped_epoch = state["stopped_epoch"]
        self.best = state["best_score"]
        self.patience = state["patience"]
        self.reason = Reason(state["stopping_reason"])
