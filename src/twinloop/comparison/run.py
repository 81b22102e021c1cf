"""Callbacks that make a Learner's run leave what a Trainer's leaves: see `twinloop.runs`."""

import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.comparison.bridge import Flags
from twinloop.comparison.checkpoint import LightningForm
from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Callback, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callback import CancelEpochException
from twinloop.runs import board
from twinloop.runs.callbacks import epoch_row
from twinloop.runs.stop import Stopped, StopSignals
from twinloop.tasks import Task


class HistoryCB(Callback):
    """Keeps a row for each epoch, across resumes: its number, seconds, and metrics."""

    follows = ("MetricsCB",)
    precedes = ("CheckpointCB",)

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._started = 0.0

    def before_epoch(self, learn: Learner) -> None:
        """Start the clock."""
        if learn.training:
            self._started = time.perf_counter()

    def after_epoch(self, learn: Learner) -> None:
        """Stop the clock, validation included, and take down the metrics."""
        if learn.ends_epoch:
            self.rows.append(epoch_row(learn.epoch, self._started, learn.metrics))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the rows of a checkpoint."""
        self.rows[:] = state["rows"]


class BoardCB(Callback):
    """What TensorBoard shows besides scalars: graph, hyperparameters, histograms, pictures."""

    follows = ("MetricsCB", "AverageCB", "ResumeCB", "DeviceCB", "TruePrecisionCB")
    precedes = ("DistributedCB",)

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

    follows = ("CheckpointCB", "ValidateCB", "AverageCB")

    def __init__(self, signals: StopSignals, saver: cbs.CheckpointCB, form: LightningForm) -> None:
        self.signals, self.saver, self.form = signals, saver, form

    def before_epoch(self, learn: Learner) -> None:
        """Stop where the run has gone on with a validation, and that is left too."""
        if learn.training and self.form.validating_from:
            learn.num -= 1  # the batch that the validation came after
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")

    def after_batch(self, learn: Learner) -> None:
        """Leave validation; stop where no gradient is left over for a later batch."""
        if not self.signals.received:
            return
        if not learn.training:
            raise CancelEpochException
        if self.form.validating_from:
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")
        full = all(cb.is_full(learn) for cb in learn.cbs if isinstance(cb, cbs.AccumulateCB))
        done = learn.num + 1
        if full and done < learn.n_batches:
            self.stop(learn, f"in epoch {learn.epoch + 1} after batch {done}")

    def after_epoch(self, learn: Learner) -> None:
        """Stop after the epoch's checkpoint."""
        if learn.ends_epoch and self.signals.received:
            where = f"after epoch {learn.epoch + 1}"
            raise Stopped(self.signals.received, where, self.saver.last_path)

    def stop(self, learn: Learner, where: str) -> None:
        """Save what the Learner is now, and stop."""
        assert self.signals.received
        self.saver.save(learn, self.saver.last_path)
        raise Stopped(self.signals.received, where, self.saver.last_path)


def learner_callbacks(
    run: Path,
    task: Task,
    data: ImageDataModule,
    writer: SummaryWriter | None,
    settings: dict[str, Any],
    signals: StopSignals,
    flags: Flags,
    *,
    checkpoint: dict[str, Any] | None,
    validates: bool,
) -> tuple[list[Callback], list[dict[str, float]]]:
    """The callbacks that keep a Learner's run in the folder `run`, and the rows of its history.

    With a `checkpoint` of either loop the run goes on from there. Of several processes only the
    first has a `writer`, and prints and saves.
    """
    history = HistoryCB()
    form = LightningForm(task, flags["accumulate_grad_batches"])
    monitor = task.monitor if validates else None
    saver = cbs.CheckpointCB(run / "checkpoints", monitor, task.mode, form.pack)
    callbacks: list[Callback] = [form, history, cbs.FiniteLossCB(Batches.rows_of)]
    if checkpoint:
        callbacks.append(cbs.ResumeCB(checkpoint, form.unpack))
    if writer is not None:
        callbacks += [
            cbs.ProgressCB(False if flags["enable_progress_bar"] is False else None),
            cbs.TensorBoardCB(writer, flags["log_every_n_steps"]),
            BoardCB(writer, task, data, settings),
            saver,
            SaveAndStopCB(signals, saver, form),
        ]
    return callbacks, history.rows
