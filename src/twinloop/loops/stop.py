"""Save and stop after the batch in which a signal was received: an adapter for either loop."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from twinloop.learner import Callback, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callback import CancelEpochException
from twinloop.loops.checkpoint import CheckpointCodec
from twinloop.loops.save import SaveBestCB, SaveCheckpointsCB
from twinloop.processes import world_size
from twinloop.runs.stop import Stopped, StopSignals


class SaveAndStop(Checkpoint):
    """Saves and stops after the batch, of train or of val, in which a signal was received.

    After the last batch of an epoch it stops once the epoch has been saved with its metrics. A
    validation that is interrupted is repeated when the run is resumed. Several processes stop after
    the same batch of train, and complete a validation first.
    """

    def __init__(self, signals: StopSignals, path: Path) -> None:
        self.signals = signals
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler of SIGTERM, which ends the process without saving."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, except in a window of accumulated batches."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        # On resuming Lightning would skip a validation that is due right after this checkpoint.
        if self.signals.agreed() and not validates_next(trainer, batch_idx):
            where = f"in epoch {trainer.current_epoch + 1} after batch {done}"
            self._save_and_stop(trainer, where)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the completed batches: Lightning would count an interrupted one twice."""
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save the state before the validation, and stop."""
        alone = world_size() == 1
        if not (alone and self.signals.received) or trainer.fit_loop._should_accumulate():
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)  # swap the weights back
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        earlier = progress.total.ready - progress.current.ready
        # Lightning repeats a validation that was interrupted in its first batch.
        for count, before in ((progress.total, earlier), (progress.current, 0)):
            vars(count).update(ready=before + 1, started=before + 1)
            vars(count).update(processed=before, completed=before)
        progress.is_last_batch = False
        self._save_and_stop(trainer, f"in the validation of epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Otherwise a plateau schedule would not step after an epoch that was resumed inside. The
        # property `restarting` is not used, since with max_steps the loop would restart again.
        trainer.fit_loop._restarting = False
        if signal_received := self.signals.agreed():
            where = f"after epoch {trainer.current_epoch + 1}"
            raise Stopped(signal_received, where, self.path)

    def _save_and_stop(self, trainer: Trainer, where: str) -> None:
        assert self.signals.received
        trainer.save_checkpoint(self.path, weights_only=False)
        raise Stopped(self.signals.received, where, self.path)


class SaveAndStopCB(Callback):
    """Saves and stops as `SaveAndStop` does."""

    order = SaveBestCB.order + 1

    def __init__(
        self, signals: StopSignals, checkpoints: SaveCheckpointsCB, codec: CheckpointCodec
    ) -> None:
        self.signals, self.checkpoints, self.codec = signals, checkpoints, codec
        self.full = True  # whether the latest batch of train ends a window of accumulated batches

    def before_epoch(self, learn: Learner) -> None:
        """Stop if the validation that a resumed run has repeated was interrupted again."""
        if learn.training and self.codec.validating_from:
            learn.num -= 1  # the batch before the validation
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            windows = [cb for cb in learn.cbs if isinstance(cb, cbs.AccumulateCB)]
            self.full = all(cb.is_full(learn) for cb in windows)

    def after_batch(self, learn: Learner) -> None:
        """Interrupt validation; stop, except in a window of accumulated batches."""
        if not learn.training:
            if self.full and self.signals.received and world_size() == 1:
                raise CancelEpochException
            return
        if self.codec.validating_from:
            self.stop(learn, f"in the validation of epoch {learn.epoch + 1}")
        done = learn.num + 1
        if not self.full or done >= learn.n_batches:
            return
        validates = any(cb.is_due(learn) for cb in learn.cbs if isinstance(cb, cbs.ValidateCB))
        if self.signals.agreed() and not validates:
            self.stop(learn, f"in epoch {learn.epoch + 1} after batch {done}")

    def after_epoch(self, learn: Learner) -> None:
        if learn.ends_epoch and (received := self.signals.agreed()):
            raise Stopped(
                received, f"after epoch {learn.epoch + 1}", self.checkpoints.saver.last_path
            )

    def stop(self, learn: Learner, where: str) -> None:
        """Save the Learner as `last.ckpt`, and stop."""
        assert self.signals.received
        path = self.checkpoints.saver.last_path
        self.checkpoints.save(learn, path)
        raise Stopped(self.signals.received, where, path)


def validates_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates after this batch, by its own rule."""
    every_n_epochs = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (trainer.current_epoch + 1) % (every_n_epochs or 1):
        return False
    if every_n_epochs is None:  # batches of all epochs are counted together
        batch_idx = trainer.fit_loop.epoch_loop.total_batch_idx
    return (batch_idx + 1) % (trainer.val_check_batch or math.inf) == 0
