"""The progress of a fit on the terminal."""

import time

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner
from twinloop.progress import Bars, epoch_of


class ProgressCB(Callback):
    """A bar for each pass in a terminal, and a line of metrics for each epoch anywhere."""

    order = Order.REPORT

    def __init__(self, bar: bool | None = None) -> None:
        self.bars = Bars(bar)
        self.started = 0.0

    def before_fit(self, learn: Learner) -> None:
        self.bars.start()

    def before_epoch(self, learn: Learner) -> None:
        if learn.training == learn.passes[0]:
            self.started = time.perf_counter()

    def after_batch(self, learn: Learner) -> None:
        epoch = epoch_of(learn.epoch, learn.n_epochs)
        self.bars.move(learn.stage, epoch, learn.num + 1, learn.n_batches)

    def after_epoch(self, learn: Learner) -> None:
        if learn.ends_epoch:
            metrics = {name: float(value) for name, value in learn.metrics.items()}
            seconds = time.perf_counter() - self.started
            self.bars.say(epoch_of(learn.epoch, learn.n_epochs), seconds, metrics)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Remove the bar of this pass; below a validation inside an epoch is that of train."""
        self.bars.take_away(learn.stage)

    def cleanup_fit(self, learn: Learner) -> None:
        self.bars.stop()
