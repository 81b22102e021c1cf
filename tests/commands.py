"""Whole commands in this process, on digits and without figures, for tests of what they decide."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from twinloop.cli import main
from twinloop.data.batches import Batch, Batches
from twinloop.runs import board, results

EXPERIMENT = str(Path(__file__).parent.parent / "experiments" / "mlp.yaml")
STOPPED = 128 + signal.SIGTERM
"""The exit status of a command that a SIGTERM has stopped."""
COMMAND = ("--config", EXPERIMENT, "--data.source", "digits")
SHORT = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--model.schedule=null")


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Leave out what has tests of its own and takes most of the time of a command."""
    for name in ("log_start", "log_epoch", "log_end"):
        patch.setattr(board, name, lambda *_: None)
    patch.setattr(results, "write_figures", lambda *_: None)


def fit(folder: Path, *options: str) -> int:
    """Train for two epochs of three batches in `folder`, unless `options` say otherwise."""
    return main(["fit", *COMMAND, "--trainer.default_root_dir", str(folder), *SHORT, *options])


def run_in(folder: Path) -> Path:
    """The only run that is kept in `folder`."""
    (run,) = (folder / "lightning_logs" / "mlp").iterdir()
    return run


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    """A checkpoint of a run, read as any other program would."""
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint


def bytes_of(run: Path) -> dict[str, bytes]:
    """All that a run has saved, but for TensorBoard and the lock."""
    kept = {".ckpt", ".yaml", ".json"}
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.suffix in kept}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command has said."""
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    return error


def assert_equal_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare the weights of two checkpoints, bit by bit."""
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


def stop_in_validation(number: int, batch: int, patch: pytest.MonkeyPatch) -> None:
    """Have this process get a SIGTERM while a batch of that validation is gathered, from 1."""
    gather = Batches.__iter__
    validations = 0

    def gather_and_stop(self: Batches) -> Iterator[Batch]:
        nonlocal validations
        validations += not self.shuffle
        for position, found in enumerate(gather(self), start=1):
            if not self.shuffle and (validations, position) == (number, batch):
                os.kill(os.getpid(), signal.SIGTERM)
            yield found

    patch.setattr(Batches, "__iter__", gather_and_stop)
