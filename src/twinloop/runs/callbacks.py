"""Lightning callbacks that make a run leave what it should.

Those that report an epoch are `Checkpoint`s: Lightning calls these last, after the task has logged
the epoch's metrics.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.data.datamodule import ImageDataModule
from twinloop.runs import board
from twinloop.runs.stop import SaveAndStop, StopSignals
from twinloop.tasks import Task


class Scalars(TensorBoardLogger):
    """Lightning's logger without its hparams.yaml: config.yaml has every setting of a run."""

    def save(self) -> None:
        """Bring to disk what was logged."""
        self.experiment.flush()


class History(Checkpoint):
    """Keeps a row for each epoch, across resumes: its number, seconds, and metrics."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; an epoch that goes on in its middle has no start of its own."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, validation included, and take down the metrics."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train/", "val/")) and not name.endswith("_step")
        }
        seconds = time.perf_counter() - self._started
        self.rows.append({"epoch": trainer.current_epoch + 1, "seconds": seconds} | metrics)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the rows of a checkpoint."""
        self.rows[:] = state_dict["rows"]


class Lines(Checkpoint):
    """Progress where the output is no terminal: one line an epoch."""

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went."""
        row = dict(self.history.rows[-1])
        epochs = f"/{trainer.max_epochs}" if trainer.max_epochs else ""
        start = f"epoch {row.pop('epoch')}{epochs}  {row.pop('seconds'):.1f} s"
        print(start, *(f"{name} {value:.4f}" for name, value in row.items()), sep="  ", flush=True)


class RandomState(Callback):
    """Saves torch's generators with a checkpoint, which Lightning does not.

    Dropout and noise draw from them, so without it a resumed run would differ from one that was
    never stopped. A validation that is left begins again, and so do its draws.
    """

    def __init__(self) -> None:
        self.before_validation: dict[str, Any] | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what validation begins with."""
        self.before_validation = self.state_dict()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a checkpoint has validation behind it."""
        self.before_validation = None

    def state_dict(self) -> dict[str, Any]:
        """The generator of the CPU and those of all GPUs."""
        return self.before_validation or {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw on from where the checkpoint was saved."""
        torch.set_rng_state(state_dict["cpu"])
        torch.cuda.set_rng_state_all(state_dict["cuda"])


class Board(Checkpoint):
    """What TensorBoard shows besides the scalars that the task logs."""

    def __init__(
        self, writer: SummaryWriter, data: ImageDataModule, config: dict[str, Any]
    ) -> None:
        self.writer = writer
        self.data = data
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The graph and the hyperparameters, once a run and not again when it goes on."""
        assert isinstance(pl_module, Task)
        if trainer.global_step == 0:
            board.log_start(self.writer, pl_module, self.config)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Histograms, reconstructions, confusion."""
        assert isinstance(pl_module, Task)
        board.log_epoch(self.writer, pl_module, self.data, trainer.global_step)


def trainer_callbacks(
    run: Path,
    task: Task,
    data: ImageDataModule,
    writer: SummaryWriter | None,
    settings: dict[str, Any],
    signals: StopSignals,
    *,
    validates: bool,
) -> tuple[list[Callback], list[dict[str, float]]]:
    """The callbacks that keep a Trainer's run in the folder `run`, and the rows of its history.

    Of several processes only the first has a `writer`, and prints; Lightning itself sees to it
    that only the first one saves.
    """
    history = History()
    folder = run / "checkpoints"
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=task.monitor,
        mode=task.mode,
        enable_version_counter=False,
    )
    # A saver with `save_last` would leave out every epoch that is not the best so far.
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    shown: list[Callback] = [RichProgressBar() if sys.stdout.isatty() else Lines(history)]
    callbacks: list[Callback] = [
        RandomState(),
        history,
        LearningRateMonitor(logging_interval="step"),
        *((*shown, Board(writer, data, settings)) if writer is not None else ()),
        *([best] if validates else ()),
        last,
        SaveAndStop(signals, folder / "last.ckpt"),
    ]
    return callbacks, history.rows
