"""One step for several batches."""

from twinloop.learner.callback import Callback, CancelStepException, Order
from twinloop.learner.learner import Learner


class AccumulateCB(Callback):
    """Adds up the gradients of `n` batches before each step; Lightning: `accumulate_grad_batches`.

    As in Lightning an epoch's last window is divided by `n` and ends in a step even where it has
    fewer batches. Metrics see the undivided loss.
    """

    order = Order.ACCUMULATE

    def __init__(self, n: int) -> None:
        self.n = n
        self.waiting = False  # whether gradients wait for the rest of their window

    def after_loss(self, learn: Learner) -> None:
        """Divide, so that a whole window's gradient is the mean over its batches."""
        if learn.training:
            learn.loss = learn.loss / self.n

    def before_step(self, learn: Learner) -> None:
        self.waiting = not self.is_full(learn)
        if self.waiting:
            raise CancelStepException

    def cleanup_epoch(self, learn: Learner) -> None:
        """Drop the gradients of a window that the end of a pass has cut short."""
        if learn.training and self.waiting:
            learn.opt.zero_grad()
            self.waiting = False

    def is_full(self, learn: Learner) -> bool:
        """Whether this batch is the last one of its window."""
        return (learn.num + 1) % self.n == 0 or learn.num + 1 == learn.n_batches
