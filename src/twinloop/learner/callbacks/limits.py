"""Less than everything: one batch, a few batches, so many steps."""

from twinloop.learner.callback import Callback, CancelFitException
from twinloop.learner.learner import Learner


class SingleBatchCB(Callback):
    """Ends the fit after one batch of train: does anything work at all?"""

    def after_batch(self, learn: Learner) -> None:
        """That was it."""
        raise CancelFitException


class LimitBatchesCB(Callback):
    """The first batches of each pass only; Lightning: `limit_train_batches`, `limit_val_batches`.

    Args:
        train: A number of batches, or a share of them if it is a float.
        val: Likewise.
    """

    def __init__(self, train: int | float = 1.0, val: int | float = 1.0) -> None:
        self.limits = {"train": train, "val": val}

    def before_epoch(self, learn: Learner) -> None:
        """Lower the number of batches of this pass."""
        learn.n_batches = limited(learn.n_batches, self.limits[learn.stage])


class LimitStepsCB(Callback):
    """Ends the fit after `max_steps` steps of the optimiser; Lightning: `max_steps`."""

    follows = ("ValidateCB", "ResumeCB")

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def before_fit(self, learn: Learner) -> None:
        """Do nothing if a checkpoint had them all."""
        self.after_batch(learn)

    def after_batch(self, learn: Learner) -> None:
        """Stop when there were enough."""
        learn.stopping |= learn.steps >= self.max_steps


def limited(n_batches: int, limit: int | float) -> int:
    """How many of `n_batches` are left by a limit: a number of batches, or a share if a float."""
    return int(n_batches * limit) if isinstance(limit, float) else min(n_batches, limit)
