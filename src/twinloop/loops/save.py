"""Save what a run keeps, see `twinloop.runs.saver`: an adapter for either loop."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from twinloop.files import save_whole
from twinloop.learner import Callback, Learner, Order
from twinloop.loops.checkpoint import CheckpointCodec
from twinloop.processes import is_first
from twinloop.runs.saver import Saver


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


class SaveCheckpointsCB(Callback):
    """Saves what the run keeps: see `Saver`. All processes pack, and the first one writes."""

    order = Order.SAVE

    def __init__(self, saver: Saver, codec: CheckpointCodec) -> None:
        self.saver, self.codec = saver, codec
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
        """Write what the Learner is now, whole or not at all: see `CheckpointCodec.pack`."""
        checkpoint = self.codec.pack(learn, completed=completed)
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
