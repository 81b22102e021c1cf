"""Which learning rate to begin with (Smith 2015, arXiv:1506.01186)."""

import math
from copy import deepcopy
from itertools import pairwise
from typing import Any

from twinloop.learner.callback import Callback, CancelFitException
from twinloop.learner.callbacks.average import AverageCB
from twinloop.learner.callbacks.checkpoint import (
    CheckpointCB,
    ResumeCB,
    pack_state,
    unpack_state,
)
from twinloop.learner.callbacks.early_stopping import EarlyStoppingCB
from twinloop.learner.callbacks.finite import FiniteLossCB
from twinloop.learner.callbacks.limits import LimitStepsCB
from twinloop.learner.callbacks.metrics import MetricsCB
from twinloop.learner.callbacks.progress import ProgressCB
from twinloop.learner.callbacks.schedule import SchedCB
from twinloop.learner.callbacks.tensorboard import TensorBoardCB
from twinloop.learner.callbacks.validate import ValidateCB
from twinloop.learner.learner import Learner

ABOUT_A_RUN = (
    *(SchedCB, EarlyStoppingCB, LimitStepsCB, ValidateCB, AverageCB),
    *(MetricsCB, ProgressCB, TensorBoardCB, CheckpointCB, ResumeCB, FiniteLossCB),
)
"""What a search leaves out: it is no run whose rate to move, or to stop, measure or save."""


class LRFinderCB(Callback):
    """Raises the learning rate by a factor a batch until the loss runs away.

    Weights, gradients, optimiser, counters, generators and callbacks are as before at the end.
    `lrs` and `losses` have what was seen.

    Args:
        start: The first learning rate.
        gamma: The factor.
        max_mult: Stop when the loss is that many times its lowest.
    """

    follows = (*ResumeCB.follows, "ResumeCB")
    precedes = ("DistributedCB",)

    def __init__(self, start: float = 1e-6, gamma: float = 1.3, max_mult: float = 4.0) -> None:
        self.start, self.gamma, self.max_mult = start, gamma, max_mult
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self._kept: dict[str, Any] | None = None

    def before_fit(self, learn: Learner) -> None:
        """Remember everything that the search is going to change."""
        self._kept = deepcopy(pack_state(learn))
        self._grads = [deepcopy(p.grad) for p in learn.model.parameters()]
        self.lrs, self.losses = [], []
        for group in learn.opt.param_groups:
            group["lr"] = self.start

    def after_batch(self, learn: Learner) -> None:
        """Take down the loss, and raise the rate."""
        if not learn.training:
            return
        self.lrs.append(learn.opt.param_groups[0]["lr"])
        self.losses.append(float(learn.loss.detach()))
        if math.isnan(self.losses[-1]) or self.losses[-1] > self.max_mult * min(self.losses):
            raise CancelFitException
        for group in learn.opt.param_groups:
            group["lr"] *= self.gamma

    def cleanup_fit(self, learn: Learner) -> None:
        """Put everything back, if the search had begun."""
        if self._kept is not None:
            epoch = learn.epoch
            unpack_state(learn, self._kept)
            learn.epoch, self._kept = epoch, None
            for p, grad in zip(learn.model.parameters(), self._grads, strict=True):
                p.grad = grad

    @property
    def suggestion(self) -> float:
        """The rate at which the loss fell fastest over the logarithm of the rate.

        Raises:
            ValueError: fewer than two batches were seen.
        """
        if len(self.losses) < 2:
            raise ValueError(f"a search needs two batches, and saw {len(self.losses)}")
        falls = [after - before for before, after in pairwise(self.losses)]
        return self.lrs[min(range(len(falls)), key=falls.__getitem__)]


def lr_find(
    learn: Learner,
    start: float = 1e-6,
    gamma: float = 1.3,
    max_mult: float = 4.0,
    n_epochs: int = 10,
) -> LRFinderCB:
    """Search by `LRFinderCB`, and leave the Learner as if there had been no search.

    The optimiser is as it was, and there is none if there was none: set `learn.lr` to the
    `suggestion` and the next fit makes one of it.

    Args:
        learn: Whose rate.
        start: The first learning rate.
        gamma: The factor a batch.
        max_mult: Stop when the loss is that many times its lowest.
        n_epochs: Stop after so many in any case.
    """
    finder = LRFinderCB(start, gamma, max_mult)
    cbs, opt = learn.cbs, learn.opt
    learn.cbs = [cb for cb in cbs if not isinstance(cb, ABOUT_A_RUN)]
    try:
        learn.fit(n_epochs, valid=False, cbs=[finder])
    finally:
        learn.cbs, learn.opt = cbs, opt
    return finder
