"""Stopping a run without losing it: SIGTERM or one Ctrl-C, save, stop."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from twinloop.processes import largest, world_size

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GO_ON = "go on with --ckpt_path last (make: RESUME=1), or start again if nothing was saved yet"


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal has asked the run to stop, and it is saved; `status` is the exit status for that."""

    def __init__(self, by: signal.Signals, where: str, path: Path) -> None:
        super().__init__(
            f"stopped by {by.name} {where}, saved in {path}; "
            "go on with --ckpt_path last (make: RESUME=1)"
        )
        self.status = 128 + by


class StoppedAtOnce(BaseException):
    """A signal has ended the command where it was; `status` is the exit status for that.

    It is no KeyboardInterrupt, on which Lightning would end the process itself.
    """

    def __init__(self, by: signal.Signals, advice: str = GO_ON) -> None:
        super().__init__(f"stopped by {by.name}; what was saved before is whole: {advice}")
        self.by = by
        self.status = 128 + by


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C raise `StoppedAtOnce`."""

    def stop(number: int, _: FrameType | None) -> None:
        raise StoppedAtOnce(signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """Within it SIGTERM and the first Ctrl-C only leave word in `received`.

    A second Ctrl-C ends the run at once, as the first one does elsewhere.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Within it, take the signals back from whoever else has taken them since."""
        for number in self._before:
            signal.signal(number, self._receive)

    def agreed(self) -> signal.Signals | None:
        """The signal that has come to any of the processes that train together.

        All of them have to ask at the same places, so that they stop after the same step.
        """
        number = largest(int(self.received or 0))
        self.received = signal.Signals(number) if number else None
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise StoppedAtOnce(signal.SIGINT)
        self.received = signal.Signals(number)
        # The signal may have come inside a print, which does not let another one in.
        with suppress(OSError):
            os.write(1, b"stopping after this step; Ctrl-C again stops at once\n")


class SaveAndStop(Checkpoint):
    """Saves and stops after the batch, of train or of val, in which a signal came.

    Where an epoch ends without validation it waits for the epoch's own checkpoint, which knows of
    its metrics. A validation that was left begins again when the run is resumed. Several processes
    stop after the same batch of train; a validation they complete first.
    """

    def __init__(self, signals: StopSignals, path: Path) -> None:
        self.signals = signals
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep Lightning from ending the process on SIGTERM, unsaved and with status 0."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where no gradient is left over for a later batch."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        # Lightning would leave out a validation that comes right after this checkpoint.
        if self.signals.agreed() and not _validates_next(trainer, batch_idx):
            where = f"in epoch {trainer.current_epoch + 1} after batch {done}"
            self._save_and_stop(trainer, where)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from what was completed: Lightning would count a batch twice that was left."""
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save what was before the validation, and stop."""
        alone = world_size() == 1
        if not (alone and self.signals.received) or trainer.fit_loop._should_accumulate():
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)  # the weights themselves
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        earlier = progress.total.ready - progress.current.ready
        # Lightning begins a validation again that was left in its first batch.
        for count, before in ((progress.total, earlier), (progress.current, 0)):
            vars(count).update(ready=before + 1, started=before + 1)
            vars(count).update(processed=before, completed=before)
        progress.is_last_batch = False
        self._save_and_stop(trainer, f"in the validation of epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the epoch's checkpoint."""
        # Else a plateau schedule would not be shown an epoch that was resumed in its middle. By
        # its property the loop would take a run with max_steps for one that is restarting.
        trainer.fit_loop._restarting = False
        if signal_received := self.signals.agreed():
            where = f"after epoch {trainer.current_epoch + 1}"
            raise Stopped(signal_received, where, self.path)

    def _save_and_stop(self, trainer: Trainer, where: str) -> None:
        assert self.signals.received
        trainer.save_checkpoint(self.path, weights_only=False)
        raise Stopped(self.signals.received, where, self.path)


def _validates_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning is going to validate after this batch, as it decides itself."""
    every_n_epochs = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (trainer.current_epoch + 1) % (every_n_epochs or 1):
        return False
    if every_n_epochs is None:  # batches of all epochs are counted together
        batch_idx = trainer.fit_loop.epoch_loop.total_batch_idx
    return (batch_idx + 1) % (trainer.val_check_batch or math.inf) == 0
