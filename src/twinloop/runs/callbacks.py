"""Lightning callbacks that make a run leave what it should.

Those that report an epoch are `Checkpoint`s: Lightning calls these last, after the task has logged
the epoch's metrics.
"""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.data.datamodule import ImageDataModule
from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.progress import Bars, epoch_of
from twinloop.runs import board
from twinloop.runs.history import History
from twinloop.runs.saver import Saver
from twinloop.runs.stop import SaveAndStop, StopSignals
from twinloop.tasks import Task


class Scalars(TensorBoardLogger):
    """Lightning's logger without its hparams.yaml: config.yaml has every setting of a run."""

    def save(self) -> None:
        """Bring to disk what was logged."""
        self.experiment.flush()


class KeepHistory(Checkpoint):
    """Keeps the run's history: see `History`."""

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed, and so has no start of its own."""
        self.history.start()
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                scheduler: Any = config.scheduler
                self.history.show_last(scheduler, str(config.monitor))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.history.start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take down what validation measured."""
        self.history.validated(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row."""
        self.history.end(trainer.current_epoch, trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        """The history so far."""
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a checkpoint's history."""
        self.history.load_state_dict(state_dict)


class SaveCheckpoints(Checkpoint):
    """Saves what the run keeps: see `Saver`."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the run is under way."""
        self.saver.begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a validation that is the best so far."""
        loop = trainer.fit_loop
        stops = trainer.should_stop and loop._can_stop_early
        self.saver.validated(
            trainer.callback_metrics,
            ends_epoch=stops or loop.epoch_loop._is_training_done,
            save=partial(trainer.save_checkpoint, weights_only=False),
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch."""
        self.saver.end_epoch(partial(trainer.save_checkpoint, weights_only=False))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have every checkpoint tell how it was trained, whoever saves it."""
        checkpoint["settings"] = self.saver.settings

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return self.saver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's best value."""
        self.saver.load_state_dict(state_dict)


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
        self.bars.say_row(self.history.rows[-1], trainer.max_epochs)

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
    saver: Saver,
    history: History,
    data: ImageDataModule,
    writer: SummaryWriter | None,
    signals: StopSignals,
    *,
    bar: bool | None = None,
) -> list[Callback]:
    """The callbacks that keep a Trainer's run in the folder of `saver`.

    A progress `bar` is drawn in a terminal, if nothing else is said.
    Of several processes only the first has a `writer`, and prints; Lightning itself sees to it
    that only the first one saves.
    """
    callbacks: list[Callback] = [
        RandomState(),
        FiniteLoss(),
        KeepHistory(history),
        LearningRateMonitor(logging_interval="step"),
    ]
    if writer is not None:
        callbacks += [EpochProgress(history, bar), Board(writer, data, saver.settings)]
    return [*callbacks, SaveCheckpoints(saver), SaveAndStop(signals, saver.last_path)]
