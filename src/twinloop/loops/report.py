"""Report each epoch: a row of the history, a line and bars, images; for either loop."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.utilities import _log_hyperparams

from twinloop.data.protocol import Data
from twinloop.learner import Callback, Learner, Order
from twinloop.learner import callbacks as cbs
from twinloop.progress import Bars, epoch_of
from twinloop.runs import board
from twinloop.runs.history import History
from twinloop.runs.run import Run
from twinloop.runs.throughput import Throughput
from twinloop.tasks import Task


class KeepHistory(Checkpoint):
    """Keeps the run's `History` while a Trainer trains."""

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a resumed epoch, which has no `on_train_epoch_start`."""
        self.history.start()
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                scheduler: Any = config.scheduler
                self.history.show_last(scheduler, str(config.monitor), config.frequency)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.start()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, _: int) -> None:
        self.history.throughput.start_batch(batch)

    def on_before_backward(self, *_: Any) -> None:
        self.history.throughput.mark("forward")

    def on_after_backward(self, *_: Any) -> None:
        self.history.throughput.mark("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        self.history.throughput.mark("rest")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.validated(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.end(trainer.current_epoch, trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)


class KeepHistoryCB(Callback):
    """Keeps the run's `History` while a Learner trains."""

    order = cbs.MetricsCB.order + 1

    def __init__(self, history: History) -> None:
        self.history = history

    def before_epoch(self, learn: Learner) -> None:
        if not learn.training:
            return
        self.history.start()
        for cb in learn.cbs:
            if isinstance(cb, cbs.PlateauSchedCB):
                self.history.show_last(cb.sched, cb.monitor, cb.every)

    def after_epoch(self, learn: Learner) -> None:
        if not learn.training:
            self.history.validated(learn.metrics)
        if learn.ends_epoch:
            self.history.end(learn.epoch, learn.metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state)


class ThroughputCB(Callback):
    """Measures where the time of a Learner goes, as `KeepHistory` does of a Trainer.

    It comes last: the batch is prepared, and the loss divided.
    """

    order = Order.STOP + 2

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            self.throughput.start_batch(learn.batch)

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            self.throughput.mark("forward")

    def after_backward(self, learn: Learner) -> None:
        self.throughput.mark("backward")

    def before_epoch(self, learn: Learner) -> None:
        """End the batch of train after which validation begins."""
        if not learn.training:
            self.throughput.mark("rest")

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            self.throughput.mark("rest")


class EpochProgress(Checkpoint):
    """A bar for each pass in a terminal, and a line of metrics for each epoch anywhere.

    Lightning's own bars print no line for an epoch, and sleep for up to a refresh period when they
    stop.
    """

    def __init__(self, history: History, bar: bool | None = None) -> None:
        self.history = history
        self.bars = Bars(bar)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bars.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch = epoch_of(trainer.current_epoch, trainer.max_epochs)
        self.bars.move("train", epoch, batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        epoch = epoch_of(trainer.current_epoch, trainer.max_epochs)
        self.bars.move("val", epoch, batch_idx + 1, trainer.num_val_batches[0])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bars.take_away("val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bars.take_away("train")
        self.bars.say_row(self.history.rows[-1], trainer.max_epochs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bars.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.bars.stop()


class EpochProgressCB(cbs.ProgressCB):
    """The bars of `ProgressCB`, and for each epoch a line with its row of the history."""

    def __init__(self, history: History, bar: bool | None = None) -> None:
        super().__init__(bar)
        self.history = history

    def after_epoch(self, learn: Learner) -> None:
        if learn.ends_epoch:
            self.bars.say_row(self.history.rows[-1], learn.n_epochs)


class Board(Checkpoint):
    """Logs everything but metrics: see `twinloop.runs.board`."""

    def __init__(self, run: Run, data: Data) -> None:
        self.run, self.data = run, data

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        resumed = trainer.global_step > 0
        board.log_start(self.run.loggers, pl_module, self.run.saver.settings, resumed=resumed)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        measured = self.run.history.throughput.measured()
        board.log_epoch(self.run.loggers, pl_module, self.data, trainer.global_step, measured)


class BoardCB(Callback):
    """Logs everything but metrics: see `twinloop.runs.board`."""

    order = Order.RESUME + 1

    def __init__(self, run: Run, task: Task, data: Data) -> None:
        self.run, self.task, self.data = run, task, data

    def before_fit(self, learn: Learner) -> None:
        """Log hyperparameters: those that the task has saved, as a Trainer does, and the run's."""
        fitted = {"lightning_module": self.task, "datamodule": self.data}
        trainer = SimpleNamespace(loggers=self.run.loggers, **fitted)
        _log_hyperparams(trainer)  # type: ignore[arg-type]
        settings, resumed = self.run.saver.settings, learn.steps > 0
        board.log_start(self.run.loggers, self.task, settings, resumed=resumed)

    def after_epoch(self, learn: Learner) -> None:
        if learn.ends_epoch:
            measured = self.run.history.throughput.measured()
            board.log_epoch(self.run.loggers, self.task, self.data, learn.steps, measured)
