"""Stopping a run without losing it: SIGTERM or one Ctrl-C, save, stop."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal has asked the run to stop, and it is saved; `status` is the exit status for that."""

    def __init__(self, by: signal.Signals, where: str, path: Path) -> None:
        super().__init__(
            f"stopped by {by.name} {where}, saved in {path}; "
            "go on with --ckpt_path last (make: RESUME=1)"
        )
        self.status = 128 + by


class StopSignals:
    """Within it SIGTERM and the first Ctrl-C only leave word in `received`.

    A second Ctrl-C ends the run at once, as the first one does elsewhere.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        print("stopping after this step; Ctrl-C again stops at once", flush=True)


class SaveAndStop(Checkpoint):
    """Saves and stops after the step in which a signal came.

    In an epoch's last batch it waits for the epoch's own checkpoint, which knows of its metrics.
    """

    def __init__(self, signals: StopSignals, path: Path) -> None:
        self.signals = signals
        self.path = path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where no gradient is left over for a later batch."""
        done = batch_idx + 1
        full = done % trainer.accumulate_grad_batches == 0
        if self.signals.received and full and done < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)
            where = f"in epoch {trainer.current_epoch + 1} after batch {done}"
            raise Stopped(self.signals.received, where, self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the epoch's checkpoint."""
        if self.signals.received:
            where = f"after epoch {trainer.current_epoch + 1}"
            raise Stopped(self.signals.received, where, self.path)
