"""Save the checkpoints of a run, see `twinloop.runs.saver`: an adapter for either loop."""

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
    """Saves the checkpoints of a Trainer's run: see `Saver`."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saver.begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        stops = trainer.should_stop and loop._can_stop_early
        self.saver.validated(
            trainer.callback_metrics,
            ends_epoch=stops or loop.epoch_loop._is_training_done,
            save=partial(trainer.save_checkpoint, weights_only=False),
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saver.end_epoch(partial(trainer.save_checkpoint, weights_only=False))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the settings to every checkpoint, also to those of other callbacks."""
        checkpoint["settings"] = self.saver.settings

    def state_dict(self) -> dict[str, Any]:
        return self.saver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saver.load_state_dict(state_dict)


class SaveCheckpointsCB(Callback):
    """Saves the checkpoints of a Learner's run. All processes pack, and the first one writes."""

    order = Order.SAVE

    def __init__(self, saver: Saver, codec: CheckpointCodec) -> None:
        self.saver, self.codec = saver, codec
        self.begun = False
        self.validated = False  # since the last batch of train

    def before_epoch(self, learn: Learner) -> None:
        """Begin the run once all callbacks have accepted the checkpoint it resumes from."""
        if not self.begun:
            self.begun = True
            self.saver.begin()

    def after_epoch(self, learn: Learner) -> None:
        self.validated |= not learn.training
        if learn.ends_epoch:
            self.saver.end_epoch(partial(self.save, learn))

    def save(self, learn: Learner, path: Path, *, completed: bool = False) -> None:
        """Write a checkpoint of the Learner atomically: see `CheckpointCodec.pack`."""
        checkpoint = self.codec.pack(learn, completed=completed)
        checkpoint["settings"] = self.saver.settings
        if is_first():
            save_whole(checkpoint, path)

    def state_dict(self) -> dict[str, Any]:
        return self.saver.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saver.load_state_dict(state)


class SaveBestCB(Callback):
    """Saves the best validation so far, once the Learner has returned to train."""

    order = Order.STOP + 1

    def __init__(self, checkpoints: SaveCheckpointsCB) -> None:
        self.checkpoints = checkpoints

    def before_epoch(self, learn: Learner) -> None:
        """Save a validation that was repeated at the start of a resumed run."""
        if learn.training and self.checkpoints.validated:
            learn.num -= 1  # the batch before the validation
            self.after_batch(learn)
            learn.num += 1

    def after_batch(self, learn: Learner) -> None:
        """Save a validation that came after this batch."""
        if learn.training and self.checkpoints.validated:
            self.checkpoints.validated = False
            ends_epoch = learn.num + 1 == learn.n_batches or learn.stopping
            save = partial(self.checkpoints.save, learn, completed=True)
            self.checkpoints.saver.validated(learn.metrics, ends_epoch=ends_epoch, save=save)
