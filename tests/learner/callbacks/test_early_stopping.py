"""The epoch after which a fit is stopped, and why."""

from math import inf, nan
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from tests.learner.learners import Values, scalar
from twinloop.errors import UserError
from twinloop.learner import Learner
from twinloop.learner.callbacks import EarlyStoppingCB, MetricsCB, ResumeCB, ValidateCB
from twinloop.learner.callbacks.early_stopping import Reason, When


def epochs(stop: EarlyStoppingCB, **numbers: list[float]) -> int:
    """The epochs of a fit that would have as many as there are numbers."""
    learn = scalar(stop, Values(**numbers))
    learn.fit(len(next(iter(numbers.values()))))
    return learn.epoch


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "expected"),
    [
        ([5, 4, 4, 3, 3], 1, 0, 3),  # as good is no better
        ([5, 6, 4, 6, 5, 4, 3], 3, 0, 6),
        ([5, 6, 4, 6, 5, 3, 3], 3, 0, 7),
        ([5, 4.5, 4.25, 4, 3], 1, 0.5, 2),  # better by min_delta exactly is not enough
        ([5, 4.75, 4.375, 4, 3], 2, 0.5, 5),  # compared with the best, not with the last
        ([5, nan, 4, 3], 3, 0, 2),
        ([5, -inf, 3], 3, 0, 2),
    ],
)
def test_patience_and_min_delta(
    losses: list[float], patience: int, min_delta: float, expected: int
) -> None:
    def stop(mode: str) -> EarlyStoppingCB:
        return EarlyStoppingCB("val/loss", mode, patience=patience, min_delta=min_delta)

    assert epochs(stop("min"), val_loss=losses) == expected
    assert epochs(stop("max"), val_loss=[-loss for loss in losses]) == expected


def test_a_metric_of_train_is_checked_after_train() -> None:
    stop = EarlyStoppingCB("train/accuracy", "max", patience=1)
    assert epochs(stop, train_accuracy=[1, 2, 2, 3], val_accuracy=[4, 3, 2, 1]) == 3
    assert stop.stopped_epoch == 2


def test_a_resumed_run_continues_to_count() -> None:
    first = EarlyStoppingCB(patience=3)
    assert epochs(first, val_loss=[2, 3, 3]) == 3
    assert first.state_dict() == {
        "wait_count": 2,
        "stopped_epoch": 0,
        "best_score": torch.tensor(2.0),
        "patience": 3,
        "stopping_reason": 0,
    }
    second = EarlyStoppingCB()

    def unpack(_: Learner, state: dict[str, Any]) -> int:
        second.load_state_dict(state)
        return 0

    learn = scalar(second, ResumeCB(first.state_dict(), unpack), Values(val_loss=[2.5, 1, 1, 1]))
    learn.fit(4)
    assert learn.epoch == 1
    assert second.reason is Reason.PATIENCE


@pytest.mark.parametrize(
    ("options", "losses", "expected", "reason"),
    [
        # As good as a threshold is neither better nor worse.
        ({"stopping_threshold": 3}, [5, 4, 3, 2, 1], 4, Reason.THRESHOLD),
        ({"divergence_threshold": 6}, [5, 6, 7, 1], 3, Reason.DIVERGENCE),
        ({"stopping_threshold": 0, "divergence_threshold": 9}, [5, 4, 3], 3, Reason.NONE),
        ({"divergence_threshold": 6}, [inf, 1], 1, Reason.NOT_FINITE),
        ({"divergence_threshold": 6, "check_finite": False}, [inf, 1], 1, Reason.DIVERGENCE),
        ({"check_finite": False, "patience": 2}, [5, nan, nan, 1], 3, Reason.PATIENCE),
        ({"patience": 0}, [5, 4, 3, 3, 1], 4, Reason.PATIENCE),
    ],
)
def test_thresholds_and_values_that_are_not_finite(
    options: dict[str, Any], losses: list[float], expected: int, reason: Reason
) -> None:
    stop = EarlyStoppingCB("val/loss", **options)
    assert epochs(stop, val_loss=losses) == expected
    assert (stop.reason, stop.stopped_epoch) == (reason, expected - 1 if reason else 0)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"min_delta": 0.25, "patience": 2},
    {"stopping_threshold": 0.5, "patience": 5},
    {"divergence_threshold": 0.5, "check_finite": False, "patience": 4},
    {"patience": 0},
]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("options", OPTIONS)
def test_lightnings_early_stopping_decides_the_same(options: dict[str, Any], mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ours = EarlyStoppingCB("val/loss", mode, **options)
        theirs = EarlyStopping("val/loss", mode=mode, **options)
        values = torch.randn(6, generator=generator).mul(4).round().div(4)
        for value in [*values, torch.tensor(inf), torch.tensor(nan)]:
            stops, _ = theirs._evaluate_stopping_criteria(value)
            ours.reason = ours._reason(value)
            assert bool(ours.reason) is stops
            state = ours.state_dict()
            assert state.items() <= theirs.state_dict().items()
            if stops:
                break


def test_a_metric_that_is_missing_is_not_checked_unless_strict() -> None:
    stop = EarlyStoppingCB("val/accuracy", patience=1, strict=False)
    assert epochs(stop, val_loss=[1, 1, 1]) == 3
    assert stop.waited == 0


@pytest.mark.parametrize(
    ("when", "monitor", "checks"),
    [
        ("pass", "val/loss", 6),
        ("pass", "train/loss", 2),
        ("validation", "val/loss", 6),
        ("validation", "train/loss", 3),  # it is not there in the first epoch
        ("epoch", "val/loss", 2),
        ("epoch", "train/loss", 2),
    ],
)
def test_when_it_checks(when: When, monitor: str, checks: int) -> None:
    stop = EarlyStoppingCB(monitor, patience=99, strict=False, when=when)
    values = Values(val_loss=[1, 1], train_loss=[1, 1])
    scalar(stop, values, ValidateCB(every_n_batches=1)).fit(2, valid=False)
    assert 1 + stop.waited == checks  # the first is better than nothing


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        ("val/loss", "less", "mode is 'less'; it must be 'min' or 'max'"),
        (None, "min", "monitor is None; it must begin with 'train/' or 'val/'"),
        ("loss", "min", "monitor is 'loss'; it must begin with 'train/' or 'val/'"),
    ],
)
def test_what_would_never_stop_is_refused(monitor: Any, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStoppingCB(monitor, mode)
    assert EarlyStoppingCB("f1", when="epoch").monitor == "f1"  # any name at the end of an epoch


def test_a_metric_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="no metric 'val/acuracy'; there are: val/loss"):
        epochs(EarlyStoppingCB("val/acuracy"), val_loss=[1])


def test_a_second_fit_has_its_own_patience_and_best() -> None:
    learn = scalar(stop := EarlyStoppingCB(patience=2), Values(val_loss=[1, 2, 3, 4, 5]))
    learn.fit(5)
    assert learn.epoch == 3
    learn.cbs = [stop, Values(val_loss=[7, 6, 7, 8, 9])]
    learn.fit(5)
    assert learn.epoch == 4
    assert stop.best == 6


def test_a_fit_in_which_it_would_never_be_checked_is_refused() -> None:
    learn = scalar(MetricsCB(), EarlyStoppingCB("val/loss"))
    with pytest.raises(UserError, match="a fit without val never measures 'val/loss'; monitor an"):
        learn.fit(1, valid=False)
    assert learn.steps == 0
    learn.fit(1, valid=False, cbs=[ValidateCB()])
    learn.rm_cb(EarlyStoppingCB)
    learn.fit(1, valid=False, cbs=[EarlyStoppingCB("val/loss", strict=False)])
    with pytest.raises(UserError, match="a fit without train never measures 'train/loss'"):
        learn.fit(1, train=False, cbs=[EarlyStoppingCB("train/loss")])
