"""A new order every epoch, from the epoch's number alone."""

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class ShuffleCB(Callback):
    """Tells the loader which epoch it is; Lightning does that to samplers by itself."""

    def before_epoch(self, learn: Learner) -> None:
        """Set the epoch whose order comes next."""
        if learn.training:
            learn.dl.set_epoch(learn.epoch)
