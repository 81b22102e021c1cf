"""Limits: one batch, a few batches of each pass, a number of steps."""

from twinloop.learner.callback import Callback, CancelFitException, Order
from twinloop.learner.learner import Learner


class SingleBatchCB(Callback):
    """Ends the fit after its first batch, to see whether anything works at all."""

    order = Order.STOP

    def after_batch(self, learn: Learner) -> None:
        raise CancelFitException


class LimitBatchesCB(Callback):
    """Limits the batches of each pass; Lightning: `limit_train_batches`, `limit_val_batches`.

    Args:
        train: A number of batches, or a share of them if it is a float.
        val: Likewise.
    """

    order = Order.PREPARE

    def __init__(self, train: int | float = 1.0, val: int | float = 1.0) -> None:
        self.limits = {"train": train, "val": val}

    def before_epoch(self, learn: Learner) -> None:
        learn.n_batches = limited(learn.n_batches, self.limits[learn.stage])


class LimitStepsCB(Callback):
    """Ends the fit after `max_steps` steps, also of the run it resumes; Lightning: `max_steps`."""

    order = Order.STOP

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def before_fit(self, learn: Learner) -> None:
        """Do not begin where a checkpoint has all steps behind it."""
        self.after_batch(learn)

    def after_batch(self, learn: Learner) -> None:
        learn.stopping |= learn.steps - learn.began >= self.max_steps


def limited(n_batches: int, limit: int | float) -> int:
    """The number of batches under a limit: a number of them, or a share if it is a float."""
    return int(n_batches * limit) if isinstance(limit, float) else min(n_batches, limit)
