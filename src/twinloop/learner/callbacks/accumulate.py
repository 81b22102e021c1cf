"""Large batches out of small ones."""

from twinloop.learner.callback import Callback, CancelStepException
from twinloop.learner.learner import Learner


class AccumulateCB(Callback):
    """Adds up the gradients of `n` batches before each step; Lightning: `accumulate_grad_batches`.

    As in Lightning the loss is divided by `n` also where an epoch's last window has fewer
    batches, and that window ends in a step all the same. Metrics see the undivided loss.
    """

    follows = ("MetricsCB",)

    def __init__(self, n: int) -> None:
        self.n = n

    def after_loss(self, learn: Learner) -> None:
        """Divide, so that a whole window's gradient is the mean over its batches."""
        if learn.training:
            learn.loss = learn.loss / self.n

    def before_step(self, learn: Learner) -> None:
        """No step before the window is full."""
        if not self.is_full(learn):
            raise CancelStepException

    def is_full(self, learn: Learner) -> bool:
        """Whether this batch is the last one of its window."""
        return (learn.num + 1) % self.n == 0 or learn.num + 1 == learn.n_batches
