"""Callbacks that make a Learner's run leave what a Trainer's leaves: see `twinloop.runs`."""

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.comparison.checkpoint import LightningForm
from twinloop.comparison.flags import Flags
from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.files import save_whole
from twinloop.learner import Callback, Learner, Order
from twinloop.learner import callbacks as cbs
from twinloop.learner.callback import CancelEpochException
from twinloop.processes import is_first, world_size
from twinloop.runs import board
from twinloop.runs.history import History
from twinloop.runs.saver import Saver
from twinloop.runs.stop import Stopped, StopSignals
from twinloop.tasks import Task


class KeepHistoryCB(Callback):
    """Keeps the run's history: see `History`."""

    order = cbs.MetricsCB.order + 1

    def __init__(self, history: History) -> None:
        self.history = history

    def before_epoch(self, learn: Learner) -> None:
        """Start the clock; show a resumed plateau schedule the epoch that was saved before it."""
        if not learn.training:
            return
        self.history.start()
        for cb in learn.cbs:
            if isinstance(cb, cbs.PlateauSchedCB):
                self.history.show_last(cb.sched, cb.monitor)

    def after_epoch(self, learn: Learner) -> None:
        """Take down what validation measured, and add the epoch's row."""
        if not learn.training:
            self.history.validated(learn.metrics)
        if learn.ends_epoch:
            self.history.end(learn.epoch, learn.metrics)

    def state_dict(self) -> dict[str, Any]:
        """The history so far."""
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a checkpoint's history."""
        self.history.load_state_dict(state)


class EpochProgressCB(cbs.ProgressCB):
    """The bars of `ProgressCB`, and for each epoch a line of the history's row."""

    def __init__(self, history: History, bar: bool | None = None) -> None:
        super().__init__(bar)
        self.history = history

    def after_epoch(self, learn: Learner) -> None:
        """Say how the epoch went."""
        if learn.ends_epoch:
            self.bars.say_row(self.history.rows[-1], learn.n_epochs)


class SaveCheckpointsCB(Callback):
    """Saves what the run keeps: see `Saver`. All processes pack, and the first one writes."""

    order = Order.SAVE

    def __init__(self, saver: Saver, form: LightningForm) -> None:
        self.saver, self.form = saver, form
        self.begun = False
        self.validated = False  # since the last batch of train

    def before_epoch(self, learn: Learner) -> None:
        """Begin the run, which nothing refuses any more."""
        if not self.begun:
            self.begun = True
            self.saver.begin()

    def after_epoch(self, learn: Learner) -> None:
        """Save the epoch."""
        self.validated |= not learn.training
        if learn.ends_epoch:
            self.saver.end_epoch(partial(self.save, learn))

    def save(self, learn: Learner, path: Path, *, completed: bool = False) -> None:
        """Write what the Learner is now, whole or not at all: see `LightningForm.pack`."""
        checkpoint = self.form.pack(learn, completed=completed)
        checkpoint["settings"] = self.saver.settings
        if is_first():
            save_whole(checkpoint, path)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return self.saver.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's best value."""
        self.saver.load_state_dict(state)


class SaveBestCB(Callback):
    """Saves a validation that is the best so far, once the Learner is back in train."""

    order = Order.STOP + 1

    def __init__(self, saver: SaveCheckpointsCB) -> None:
        self.saver = saver

    def before_epoch(self, learn: Learner) -> None:
        """Look at a validation that a resumed run has begun with."""
        if learn.training and self.saver.validated:
            learn.num -= 1  # the batch that the validation came after
            self.after_batch(learn)
            learn.num += 1

    def after_batch(self, learn: Learner) -> None:
        """Look at a validation that came after this batch."""
        if learn.training and self.saver.validated:
            self.saver.validated = False
            ends_epoch = learn.num + 1 == learn.n_batches or learn.stopping
            save = partial(self.saver.save, learn, completed=True)
            self.saver.saver.validated(learn.metrics, ends_epoch=ends_epoch, save=save)


class BoardCB(Callback):
    """What TensorBoard shows besides scalars: graph, hyperparameters, histograms, pictures."""

    order = Order.RESUME + 1

    def __init__(
        self, writer: SummaryWriter, task: Task, data: ImageDataModule, config: dict[str, Any]
    ) -> None:
        self.writer, self.task, self.data, self.config = writer, task, data, config

    def before_fit(self, learn: Learner) -> None:
        """The graph and the hyperparameters, once a run and not again when it goes on."""
        if learn.steps == 0:
            board.log_start(self.writer, self.task, self.config)

    def after_epoch(self, learn: Learner) -> None:
        """Histograms, reconstructions, confusion."""
        if learn.ends_epoch:
            board.log_epoch(self.writer, self.task, self.data, learn.steps)


class SaveAndStopCB(Callback):
    """Saves and stops after the batch in which a signal came, as `twinloop.runs.stop` does."""

    order = SaveBestCB.order + 1

    def __init__(self, signals: StopSignals, saver: SaveCheckpointsCB, form: LightningForm) -> None:
        self.signals, self.saver, self.form = signals, saver, form
        self.full = True

    def before_epoch(self, learn: Learner) -> None:
        """Stop where the run was resumed in a validation, and that is left too."""
        if learn.training and self.form.validating_from:
            learn.num -= 1  # the batch that the validation came after
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")

    def before_batch(self, learn: Learner) -> None:
        """Remember whether this batch leaves a gradient over for a later one."""
        if learn.training:
            windows = [cb for cb in learn.cbs if isinstance(cb, cbs.AccumulateCB)]
            self.full = all(cb.is_full(learn) for cb in windows)

    def after_batch(self, learn: Learner) -> None:
        """Leave validation; stop where no gradient is left over for a later batch."""
        if not learn.training:
            if self.full and self.signals.received and world_size() == 1:
                raise CancelEpochException
            return
        if self.form.validating_from:
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")
        done = learn.num + 1
        if not self.full or done >= learn.n_batches:
            return
        validates = any(cb.is_due(learn) for cb in learn.cbs if isinstance(cb, cbs.ValidateCB))
        if self.signals.agreed() and not validates:
            self.stop(learn, f"in epoch {learn.epoch + 1} after batch {done}")

    def after_epoch(self, learn: Learner) -> None:
        """Stop after the epoch's checkpoint."""
        if learn.ends_epoch and (received := self.signals.agreed()):
            raise Stopped(received, f"after epoch {learn.epoch + 1}", self.saver.saver.last_path)

    def stop(self, learn: Learner, where: str) -> None:
        """Save what the Learner is now, and stop."""
        assert self.signals.received
        path = self.saver.saver.last_path
        self.saver.save(learn, path)
        raise Stopped(self.signals.received, where, path)


def learner_callbacks(
    saver: Saver,
    history: History,
    task: Task,
    data: ImageDataModule,
    writer: SummaryWriter | None,
    signals: StopSignals,
    flags: Flags,
    *,
    checkpoint: dict[str, Any] | None,
    bar: bool | None = None,
) -> list[Callback]:
    """The callbacks that keep a Learner's run in the folder of `saver`.

    With a `checkpoint` of either loop the run is resumed from there. Of several processes only the
    first has a `writer`, and prints.
    """
    form = LightningForm(task, flags["accumulate_grad_batches"])
    save = SaveCheckpointsCB(saver, form)
    callbacks: list[Callback] = [
        *(form, KeepHistoryCB(history), cbs.FiniteLossCB(Batches.rows_of)),
        *(save, SaveBestCB(save), SaveAndStopCB(signals, save, form)),
    ]
    if checkpoint:
        callbacks.append(cbs.ResumeCB(checkpoint, form.unpack))
    if writer is not None:
        callbacks += [
            EpochProgressCB(history, bar),
            cbs.TensorBoardCB(writer, flags["log_every_n_steps"]),
            BoardCB(writer, task, data, saver.settings),
        ]
    return callbacks
