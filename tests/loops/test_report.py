"""Lightning callbacks that keep the history, show progress and restore random numbers."""

import re
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import SGD

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.loops.checkpoint import RandomState
from twinloop.loops.report import EpochProgress, KeepHistory
from twinloop.models import MLP
from twinloop.runs.history import History
from twinloop.tasks import Classification


def fit(data: ImageDataModule, *callbacks: Any, epochs: int = 2) -> Trainer:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), data.spec)
    trainer = quiet_trainer(
        max_epochs=epochs,
        limit_train_batches=2,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    trainer.fit(task, datamodule=data)
    return trainer


def test_history_has_a_row_for_each_epoch_with_its_metrics(digits: ImageDataModule) -> None:
    history = History("lightning")
    trainer = fit(digits, KeepHistory(history))
    names = ["epoch", "seconds", "train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    assert [sorted(row) for row in history.rows] == [names] * 2
    assert [row["epoch"] for row in history.rows] == [1, 2]
    assert all(0 < row["seconds"] < 60 for row in history.rows)
    for name in names[2:]:
        assert history.rows[-1][name] == trainer.callback_metrics[name]
    assert history.rows[0]["train/loss"] != history.rows[1]["train/loss"]


def test_progress_is_a_line_for_each_epoch(
    digits: ImageDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History("lightning")
    fit(digits, KeepHistory(history), EpochProgress(history))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    for number, (line, row) in enumerate(zip(lines, history.rows, strict=True), start=1):
        assert re.match(rf"epoch {number}/2  \d+\.\d s  ", line)
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            assert f"  {name} {row[name]:.4f}" in line


class Look(Checkpoint):
    """Looks at the bars whenever a batch is done; raises at `ends`, a batch of val."""

    def __init__(self, progress: EpochProgress, ends: int | None = None) -> None:
        self.bars, self.ends = progress.bars, ends
        self.seen: list[list[tuple[str, float, float | None]]] = []

    def _look(self) -> None:
        self.seen.append([(t.description, t.completed, t.total) for t in self.bars.tasks])

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._look()

    def on_validation_batch_end(self, *args: Any, **_: Any) -> None:
        self._look()
        if args[4] == self.ends:
            raise ValueError("here")


def test_progress_is_a_bar_for_each_pass(digits: ImageDataModule) -> None:
    history = History("lightning")
    progress = EpochProgress(history, bar=True)
    look = Look(progress)
    trainer = fit(digits, KeepHistory(history), progress, look, epochs=1)
    batches = int(trainer.num_val_batches[0])
    train = [("epoch 1/1 train", done, 2) for done in (1, 2)]
    val = [("epoch 1/1 val", done, batches) for done in range(1, batches + 1)]
    assert look.seen == [*([bar] for bar in train), *([train[1], bar] for bar in val)]
    assert progress.bars.tasks == []
    assert not progress.bars.live.is_started


def test_a_fit_that_fails_stops_drawing_bars(digits: ImageDataModule) -> None:
    history = History("lightning")
    progress = EpochProgress(history, bar=True)
    with pytest.raises(ValueError, match="here"):
        fit(digits, KeepHistory(history), progress, Look(progress, ends=0))
    assert not progress.bars.live.is_started


def test_a_checkpoint_restores_the_random_state() -> None:
    callback = RandomState()
    saved = callback.state_dict()
    expected = torch.rand(3)
    torch.rand(5)
    callback.load_state_dict(saved)
    assert torch.equal(torch.rand(3), expected)
