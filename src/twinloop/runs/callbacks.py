"""Lightning callbacks that make a run leave what it should.

Those that report an epoch are `Checkpoint`s: Lightning calls these last, after the task has logged
the epoch's metrics.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.data.datamodule import ImageDataModule
from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.progress import Bars, epoch_of
from twinloop.runs import board
from twinloop.runs.stop import SaveAndStop, StopSignals
from twinloop.tasks import Task


class Scalars(TensorBoardLogger):
    """Lightning's logger without its hparams.yaml: config.yaml has every setting of a run."""

    def save(self) -> None:
        """Bring to disk what was logged."""
        self.experiment.flush()


def epoch_row(epoch: int, started: float, metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """A row of a history: the epoch counted from 1, its seconds until now, and its metrics."""
    of_epoch = {
        name: float(value)
        for name, value in metrics.items()
        if name.startswith(("train/", "val/")) and not name.endswith("_step")
    }
    return {"epoch": epoch + 1, "seconds": time.perf_counter() - started} | of_epoch


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
        metrics = trainer.callback_metrics
        self.rows.append(epoch_row(trainer.current_epoch, self._started, metrics))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the rows of a checkpoint."""
        self.rows[:] = state_dict["rows"]


class EpochProgress(Checkpoint):
    """A bar for each pass in a terminal, and a line of metrics for each epoch anywhere.

    Lightning's own bars leave no line of an epoch, and the last thing that they do is to sleep for
    up to as long as they do between two redraws.
    """

    def __init__(self, history: History, bar: bool | None = None) -> None:
        self.history = history
        self.bars = Bars(bar)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start drawing."""
        self.bars.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar of train on."""
        epoch = epoch_of(trainer.current_epoch, trainer.max_epochs)
        self.bars.move("train", epoch, batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move that of val on, below the one of train."""
        epoch = epoch_of(trainer.current_epoch, trainer.max_epochs)
        self.bars.move("val", epoch, batch_idx + 1, trainer.num_val_batches[0])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away."""
        self.bars.take_away("val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went."""
        self.bars.take_away("train")
        row = dict(self.history.rows[-1])
        epoch = epoch_of(int(row.pop("epoch")) - 1, trainer.max_epochs)
        self.bars.say(epoch, row.pop("seconds"), row)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the terminal back."""
        self.bars.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self.bars.stop()


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


class FiniteLoss(Callback):
    """Ends the fit at a loss that is NaN or infinite, before it gets into the weights.

    Validation ends it too, a batch later: a GPU then has the next one to do while it is asked.

    Raises:
        NotFiniteError: says in which batch, rows and layer it began.
    """

    def __init__(self) -> None:
        self.validated: list[tuple[LossCheck, int, Any, list[Tensor]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch, and the generators before anything is drawn for it."""
        self.kept = batch_idx, batch, random_state()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Begin to ask."""
        self.check = LossCheck(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the fit before the step."""
        self._demand(trainer, pl_module, "train", self.check, *self.kept)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batches of a validation that was cut short."""
        self.validated.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask for the batch before this one, and at last for the last one."""
        self.validated.append((LossCheck(outputs), batch_idx, batch, random_state()))
        while len(self.validated) > (batch_idx + 1 < trainer.num_val_batches[0]):
            self._demand(trainer, pl_module, "val", *self.validated.pop(0))

    def _demand(
        self,
        trainer: Trainer,
        task: LightningModule,
        stage: str,
        check: LossCheck,
        number: int,
        batch: Any,
        random: list[Tensor],
    ) -> None:
        if check.passed():
            return
        assert isinstance(task, Task)

        def forward() -> Tensor:
            with trainer.precision_plugin.forward_context():
                inputs, target = task.inputs_and_targets(batch)
                return task.loss(task(inputs), target)

        loader: Any = trainer.train_dataloader if stage == "train" else trainer.val_dataloaders
        raise check.error(
            place(stage, trainer.current_epoch, number, trainer.global_step),
            loader.rows_of(number),
            lambda: first_not_finite(task, forward, random),
        )


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
    bar: bool | None = None,
) -> tuple[list[Callback], list[dict[str, float]]]:
    """The callbacks that keep a Trainer's run in the folder `run`, and the rows of its history.

    A progress `bar` is drawn in a terminal, if nothing else is said.
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
    callbacks: list[Callback] = [
        RandomState(),
        FiniteLoss(),
        history,
        LearningRateMonitor(logging_interval="step"),
        *(
            (EpochProgress(history, bar), Board(writer, data, settings))
            if writer is not None
            else ()
        ),
        *([best] if validates else ()),
        last,
        SaveAndStop(signals, folder / "last.ckpt"),
    ]
    return callbacks, history.rows
