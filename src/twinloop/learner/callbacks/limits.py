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
    """The number of batches under a limit: see `in_batches`."""
    return min(n_batches, in_batches(n_batches, limit))


def in_batches(n_batches: int, value: int | float) -> int:
    """A share of `n_batches` if `value` is a float up to 1, else a number: 3.0 is 3 to Lightning.

    Which of int and float the command line makes of 3 depends on what was imported before
    Lightning: typing takes `int | float` for `float | int` where it has seen that first.
    """
    return int(n_batches * value) if isinstance(value, float) and value <= 1 else int(value)
