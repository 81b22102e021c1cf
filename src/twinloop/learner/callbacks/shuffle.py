"""A new order of the samples in every epoch, which depends on the epoch's number alone."""

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class ShuffleCB(Callback):
    """Tells the loader of train the epoch's number; Lightning does so for samplers by itself."""

    order = Order.PREPARE

    def before_epoch(self, learn: Learner) -> None:
        if learn.training:
            learn.dl.set_epoch(learn.epoch)
