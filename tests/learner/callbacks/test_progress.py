"""A line for each epoch, and a bar on a terminal."""

import contextlib
import itertools
import re
import time

import numpy as np
import pytest
import torch
from torch import nn

from tests.learner.learners import Raises
from twinloop.learner import (
    Callback,
    CancelEpochException,
    CancelFitException,
    DataLoaders,
    Learner,
    TrainLearner,
)
from twinloop.learner.callbacks import MetricsCB, ProgressCB, ValidateCB

TRAIN = [(torch.ones(1, 1), torch.full((1, 1), float(target))) for target in (1, 2, 3, 4)]
VALID = [(torch.ones(1, 1), torch.full((1, 1), 5.0))]


def learner(*cbs: Callback) -> Learner:
    """The weight stays 0, so that a loss is a target squared."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return TrainLearner(model, DataLoaders(TRAIN, VALID), nn.functional.mse_loss, 0.0, cbs)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by one second whenever it is read."""
    seconds = itertools.count(100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))


@pytest.mark.parametrize("inside", [False, True])
def test_the_lines(inside: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cbs: list[Callback] = [ProgressCB(), MetricsCB(), *([ValidateCB()] if inside else [])]
    learner(*cbs).fit(2, valid=not inside)
    numbers = ["train/loss 7.5000", "val/loss 25.0000"]
    numbers = numbers[::-1] if inside else numbers  # in the order in which they are known
    assert capsys.readouterr().out.splitlines() == [
        f"epoch {epoch}/2  1.0 s  {'  '.join(numbers)}" for epoch in (1, 2)
    ]


def test_the_line_of_validation_alone_and_without_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner(ProgressCB(), MetricsCB()).fit(1, train=False)
    learner(ProgressCB()).fit(1)
    assert capsys.readouterr().out == "epoch 1/1  1.0 s  val/loss 25.0000\nepoch 1/1  1.0 s\n"


def test_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    class Look(Callback):
        def after_batch(self, learn: Learner) -> None:
            seen.append([(t.description, t.completed, t.total) for t in progress.bars.tasks])

    seen: list[list[tuple[str, float, float | None]]] = []
    progress = ProgressCB(bar=True)
    learner(progress, Look()).fit(1)
    assert seen == [
        *([("epoch 1/1 train", done, 4)] for done in (1, 2, 3, 4)),
        [("epoch 1/1 val", 1, 1)],
    ]
    assert progress.bars.tasks == []
    assert progress.bars.finished
    assert re.search(r"epoch 1/1 +\d+\.\d s", capsys.readouterr().out)


def test_a_bar_of_valid_is_below_that_of_train() -> None:
    class Look(Callback):
        def after_batch(self, learn: Learner) -> None:
            if not learn.training:
                seen.append([t.description for t in progress.bars.tasks])

    seen: list[list[str]] = []
    progress = ProgressCB(bar=False)
    learner(progress, Look(), ValidateCB(every_n_batches=3)).fit(1, valid=False)
    assert seen == [["epoch 1/1 train", "epoch 1/1 val"]]


def in_valid(learn: Learner) -> bool:
    return not learn.training


@pytest.mark.parametrize(
    "ends",
    [
        Raises("before_fit", ValueError(), order=ProgressCB.order - 1),
        Raises("before_fit", CancelFitException()),
        Raises("before_epoch", CancelFitException(), in_valid),
        Raises("after_loss", ValueError(), in_valid),
    ],
)
def test_the_terminal_is_given_back_however_a_fit_ends(ends: Raises) -> None:
    learn = learner(progress := ProgressCB(bar=True), ends)
    with contextlib.suppress(ValueError):
        learn.fit(2)
    assert not progress.bars.live.is_started
    assert progress.bars.tasks == []


def test_a_validation_that_is_cancelled_leaves_the_bar_of_train() -> None:
    cancel = Raises("before_epoch", CancelEpochException(), in_valid)
    learn = learner(cancel, ValidateCB(every_n_batches=1), ProgressCB(bar=False))
    learn.fit(2, valid=False)
    assert learn.steps == 8


# --- the curve ----------------------------------------------------------------------------------


def test_the_curve_has_each_loss_of_train_and_each_validation() -> None:
    learn = learner(progress := ProgressCB(plot=True), MetricsCB())
    for n_epochs in (3, 2):  # a fit begins anew
        learn.fit(n_epochs)
        train, val = progress.curve().axes[0].lines
        batches, losses = np.asarray(train.get_xydata()).T.tolist()
        assert batches == [*range(1, 4 * n_epochs + 1)]
        assert losses == [1, 4, 9, 16] * n_epochs
        points = [[4.0 * n, 25.0] for n in range(1, n_epochs + 1)]
        assert np.asarray(val.get_xydata()).tolist() == points


def test_a_terminal_is_told_where_the_curve_is(capsys: pytest.CaptureFixture[str]) -> None:
    learner(ProgressCB(plot=True)).fit(1)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("ProgressCB(plot=True) draws its curve in notebooks only; its curve()")
    learner(ProgressCB()).fit(1)
    assert "plot" not in capsys.readouterr().out
