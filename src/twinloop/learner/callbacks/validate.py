"""Validation inside the training epoch."""

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class ValidateCB(Callback):
    """Validates inside the training epoch, as Lightning does: use it with `fit(valid=False)`.

    Args:
        every_n_epochs: Only in every n-th epoch; with None the batches of all epochs are counted
            together. Lightning: `check_val_every_n_epoch`.
        every_n_batches: After every n-th batch, or after the last one if unset; Lightning:
            `val_check_interval`.
    """

    order = Order.VALIDATE

    def __init__(self, every_n_epochs: int | None = 1, every_n_batches: int | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self.every_n_batches = every_n_batches
        self.left = False  # whether the run was stopped in a validation

    def before_epoch(self, learn: Learner) -> None:
        """Repeat the validation in which the run was stopped."""
        if learn.training and self.left:
            self.left = False
            self.validate(learn)

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self.is_due(learn):
            self.validate(learn)

    def is_due(self, learn: Learner) -> bool:
        """Whether a validation comes after this batch of train."""
        if not len(learn.dls.valid) or (learn.epoch + 1) % (self.every_n_epochs or 1):
            return False
        done = learn.num + 1
        if self.every_n_epochs is None:
            done += learn.epoch * learn.n_batches
        return done % (self.every_n_batches or learn.n_batches) == 0

    def validate(self, learn: Learner) -> None:
        """Go through valid, and restore the position in train."""
        names = ("training", "dl", "num", "n_batches", "batch", "preds", "loss")
        kept = {name: value for name, value in vars(learn).items() if name in names}
        try:
            learn.one_epoch(False)
        finally:  # also for the cleanup of train
            learn.model.train()
            vars(learn).update(kept)
