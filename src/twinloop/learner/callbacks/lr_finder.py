"""Which learning rate to begin with (Smith 2015, arXiv:1506.01186)."""

import math
from copy import deepcopy

from twinloop.learner.callback import Callback, CancelFitException
from twinloop.learner.learner import Learner


class LRFinderCB(Callback):
    """Raises the learning rate by a factor a batch until the loss runs away.

    Weights, optimiser and counters are as before at the end. `lrs` and `losses` have what was
    seen, `suggestion` the rate at which the loss fell fastest.

    Args:
        start: The first learning rate.
        gamma: The factor.
        max_mult: Stop when the loss is that many times its lowest.
    """

    precedes = ("DistributedCB",)

    def __init__(self, start: float = 1e-6, gamma: float = 1.3, max_mult: float = 4.0) -> None:
        self.start, self.gamma, self.max_mult = start, gamma, max_mult
        self.lrs: list[float] = []
        self.losses: list[float] = []

    def before_fit(self, learn: Learner) -> None:
        """Remember everything that the search is going to change."""
        self._kept = deepcopy((learn.model.state_dict(), learn.opt.state_dict(), learn.steps))
        for group in learn.opt.param_groups:
            group["lr"] = self.start

    def after_batch(self, learn: Learner) -> None:
        """Take down the loss, and raise the rate."""
        self.lrs.append(learn.opt.param_groups[0]["lr"])
        self.losses.append(float(learn.loss.detach()))
        if math.isnan(self.losses[-1]) or self.losses[-1] > self.max_mult * min(self.losses):
            raise CancelFitException
        for group in learn.opt.param_groups:
            group["lr"] *= self.gamma

    def cleanup_fit(self, learn: Learner) -> None:
        """Put everything back."""
        model, opt, learn.steps = self._kept
        learn.model.load_state_dict(model)
        learn.opt.load_state_dict(opt)

    @property
    def suggestion(self) -> float:
        """The rate at which the loss fell fastest over the logarithm of the rate."""
        falls = [
            after - before for before, after in zip(self.losses, self.losses[1:], strict=False)
        ]
        return self.lrs[min(range(len(falls)), key=falls.__getitem__)]
