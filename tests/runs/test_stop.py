"""Signals that ask a run to stop, and where in it that may be."""

import os
import signal
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import SGD

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.loops.stop import validates_next
from twinloop.models import MLP
from twinloop.runs import stop
from twinloop.runs.stop import StoppedAtOnce, StopSignals
from twinloop.tasks import Classification

Place = tuple[int, int]
"""An epoch and a batch, counted from 0."""


class Foresee(Checkpoint):
    """Takes down after which batches a validation is foreseen, and after which one comes."""

    def __init__(self) -> None:
        self.foreseen: list[Place] = []
        self.came: list[Place] = []
        self.at: Place = (-1, -1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Foresee."""
        self.at = trainer.current_epoch, batch_idx
        if validates_next(trainer, batch_idx):
            self.foreseen.append(self.at)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See."""
        self.came.append(self.at)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [(0, 4), (1, 4), (2, 4)]),
        ({"val_check_interval": 2}, [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3)]),
        ({"val_check_interval": 0.7}, [(0, 2), (1, 2), (2, 2)]),
        ({"val_check_interval": 5, "check_val_every_n_epoch": 2}, [(1, 4)]),
        ({"check_val_every_n_epoch": 4}, []),
        ({"val_check_interval": 7, "check_val_every_n_epoch": None}, [(1, 1), (2, 3)]),
    ],
    ids=str,
)
def test_a_validation_is_foreseen_where_lightning_makes_one(
    flags: dict[str, Any], expected: list[Place], digits: ImageDataModule
) -> None:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    options: dict[str, Any] = {"max_epochs": 3, "limit_train_batches": 5, "limit_val_batches": 1}
    look = Foresee()
    trainer = quiet_trainer(**options | flags, callbacks=[look], enable_checkpointing=True)
    trainer.fit(task, datamodule=digits)
    assert look.came == expected
    assert look.foreseen == expected


def test_without_a_signal_processes_agree_on_none() -> None:
    assert StopSignals().agreed() is None


def test_a_signal_is_kept_and_a_second_ctrl_c_stops_at_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.agreed() is signals.received is signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.agreed() is signal.SIGTERM
        with pytest.raises(StoppedAtOnce) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
        assert stopped.value.status == 128 + signal.SIGINT
    assert [signal.getsignal(number) for number in stop.SIGNALS] == before
    line = "stopping after this step; Ctrl-C again stops at once\n"
    assert capfd.readouterr().out == 2 * line


def test_listen_takes_back_a_replaced_signal_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received is signal.SIGTERM
    signals.listen()  # outside of it nothing is taken
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("ours", [None, signal.SIGINT])
def test_all_processes_agree_on_a_signal_to_one(
    ours: signal.Signals | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "largest", lambda value: max(value, signal.SIGTERM))
    signals = StopSignals()
    signals.received = ours
    assert signals.agreed() is signal.SIGTERM
    assert signals.received is signal.SIGTERM
