"""What tests of several folders share: whole commands on digits, quiet Trainers, checkpoints."""

import importlib
import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from twinloop.cli import main
from twinloop.data.batches import Batch, Batches
from twinloop.runs import board, results

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
EXPERIMENT = str(EXPERIMENTS / "mlp.yaml")
STOPPED = 128 + signal.SIGTERM
"""The exit status of a command that a SIGTERM has stopped."""
ON_DIGITS = ("--data.source", "digits")
COMMAND = ("--config", EXPERIMENT, *ON_DIGITS)
SHORT = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--model.schedule=null")


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Leave out what has tests of its own and takes most of the time of a command."""
    for name in ("log_start", "log_epoch", "log_end"):
        patch.setattr(board, name, lambda *_, **__: None)
    patch.setattr(results, "write_figures", lambda *_: None)
    patch.setattr(results, "evaluate_codes", lambda *_: {})


def encode_as_windows(patch: pytest.MonkeyPatch) -> None:
    """Give text files that name no encoding the one that they have on Windows."""
    patch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "cp1252")


def fit(folder: Path, *options: str, experiment: str = "mlp") -> int:
    """Train for two epochs of three batches in `folder`, unless `options` say otherwise."""
    command = ["fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml"), *ON_DIGITS]
    return main([*command, "--trainer.default_root_dir", str(folder), *SHORT, *options])


def quiet_trainer(**options: Any) -> Trainer:
    """A Trainer on the CPU that prints and writes nothing, unless `options` say otherwise."""
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = {"accelerator": "cpu", "num_sanity_val_steps": 0}
    return Trainer(**quiet | dict.fromkeys(names, False) | options)


def run_in(folder: Path) -> Path:
    """The only run that is kept in `folder`."""
    (run,) = (folder / "lightning_logs").glob("*/*")
    return run


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    """A checkpoint of a run, read as any other program would."""
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint


def write_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a user's own that an experiment may name."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


def bytes_of(run: Path) -> dict[str, bytes]:
    """All that a run has saved, but for TensorBoard and the lock."""
    kept = {".ckpt", ".yaml", ".json"}
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.suffix in kept}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command has printed to stderr."""
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    return error


def assert_equal_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare the weights of two checkpoints, bit by bit."""
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


def stop_in(chosen: Callable[[Batches, int], bool], patch: pytest.MonkeyPatch) -> None:
    """Have this process get a SIGTERM while it gathers a `chosen` batch, counted from 1 by pass."""
    gather = Batches.__iter__

    def gather_and_stop(self: Batches) -> Iterator[Batch]:
        for number, found in enumerate(gather(self), start=1):
            if chosen(self, number):
                os.kill(os.getpid(), signal.SIGTERM)
            yield found

    patch.setattr(Batches, "__iter__", gather_and_stop)


def stop_at(epoch: int, batch: int, patch: pytest.MonkeyPatch) -> None:
    """The same in a batch of training; epochs are counted from 0."""
    stop_in(lambda found, number: found.shuffle and (found.epoch, number) == (epoch, batch), patch)


class Payload:
    """Makes a folder when it is unpickled: the sign that a file has run code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)
