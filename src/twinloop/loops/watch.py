"""Show each epoch to whoever watches the run, and may end it: an adapter for either loop."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from twinloop.learner import Callback, Learner
from twinloop.loops.stop import SaveAndStopCB
from twinloop.runs.history import History, Watch


class WatchEpochs(Checkpoint):
    """Shows the row of each epoch once it is saved, and that of the last one to a resumed run."""

    def __init__(self, history: History, watch: Watch) -> None:
        self.history, self.watch = history, watch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The process may have been killed between saving and showing."""
        if self.history.rows:
            self.watch(self.history.rows[-1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch(self.history.rows[-1])


class WatchEpochsCB(Callback):
    """Does as `WatchEpochs` does."""

    order = SaveAndStopCB.order + 1

    def __init__(self, history: History, watch: Watch) -> None:
        self.history, self.watch = history, watch

    def before_fit(self, learn: Learner) -> None:
        if self.history.rows:
            self.watch(self.history.rows[-1])

    def after_epoch(self, learn: Learner) -> None:
        if learn.ends_epoch:
            self.watch(self.history.rows[-1])
