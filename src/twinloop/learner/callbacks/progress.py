"""The progress of a fit, in a terminal or a notebook."""

import base64
import time
from typing import TYPE_CHECKING

from torch import Tensor

from twinloop import figures
from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner
from twinloop.notebook import Output, in_notebook
from twinloop.progress import Bars, epoch_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_CURVE = (
    "ProgressCB(plot=True) draws its curve in notebooks only; its curve() is the figure, which "
    "twinloop.figures.save writes to a file"
)


class ProgressCB(Callback):
    """A bar for each pass in a terminal or a notebook, and a line of metrics for each epoch.

    Args:
        bar: Whether to draw the bars; in a terminal and a notebook if unset.
        plot: Whether to draw the losses in a notebook, again and again while they come in.
    """

    order = Order.REPORT

    def __init__(self, bar: bool | None = None, plot: bool = False) -> None:
        self.bars = Bars(bar)
        self.started = 0.0
        self.plot = plot
        self.output = Output(1.0) if in_notebook() else None
        self.losses: list[Tensor] = []  # of each batch of train
        self.validated: dict[int, float] = {}  # the loss of each validation, by batches before it

    def before_fit(self, learn: Learner) -> None:
        self.bars.start()
        self.losses, self.validated = [], {}
        if self.plot and self.output is None:
            self.bars.console.print(NO_CURVE, highlight=False, soft_wrap=True)

    def before_epoch(self, learn: Learner) -> None:
        if learn.training == learn.passes[0]:
            self.started = time.perf_counter()

    def after_batch(self, learn: Learner) -> None:
        epoch = epoch_of(learn.epoch, learn.n_epochs)
        self.bars.move(learn.stage, epoch, learn.num + 1, learn.n_batches)
        if self.plot and self.output and self.output.is_due:
            self.draw()

    def after_loss(self, learn: Learner) -> None:
        if self.plot and learn.training:
            self.losses.append(learn.loss.detach())  # read when it is drawn: a GPU goes on

    def after_epoch(self, learn: Learner) -> None:
        if "val/loss" in learn.metrics and not learn.training:
            self.validated[len(self.losses)] = float(learn.metrics["val/loss"])
        if learn.ends_epoch:
            metrics = {name: float(value) for name, value in learn.metrics.items()}
            seconds = time.perf_counter() - self.started
            self.bars.say(epoch_of(learn.epoch, learn.n_epochs), seconds, metrics)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Remove the bar of this pass; below a validation inside an epoch is that of train."""
        self.bars.take_away(learn.stage)

    def cleanup_fit(self, learn: Learner) -> None:
        self.bars.stop()
        if self.output and self.output.handle:
            self.draw()
            self.output.end()

    def curve(self) -> "Figure":
        """The losses of this fit over its batches, those of validation where they were measured."""
        return figures.losses([float(loss) for loss in self.losses], self.validated)

    def draw(self) -> None:
        """Draw the curve where it is in the notebook."""
        assert self.output is not None
        png = base64.b64encode(figures.as_png(self.curve())).decode()
        last = f"loss {float(self.losses[-1]):.4f}" if self.losses else "no loss"
        self.output.show({"image/png": png, "text/plain": last})
