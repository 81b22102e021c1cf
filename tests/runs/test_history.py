"""The history of a run: what a row contains, and what of it a checkpoint restores."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinloop.runs import throughput
from twinloop.runs.history import History


def measured(**values: float) -> dict[str, Tensor]:
    """Metrics by names in which the first underscore is a slash."""
    return {name.replace("_", "/", 1): torch.tensor(value) for name, value in values.items()}


def row(history: History) -> dict[str, float]:
    """The last row without its time."""
    found = dict(history.rows[-1])
    assert found.pop("seconds") >= 0
    return found


def test_the_time_of_a_validation_is_not_one_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 50.0, 52.0])
    monkeypatch.setattr(throughput, "perf_counter", lambda: next(times))
    history = History("lightning")
    history.start()
    history.throughput.start_batch(torch.zeros(4))
    history.validated(measured(val_loss=3.0))
    history.throughput.mark("rest")
    assert history.throughput.seconds == {"data": 1, "forward": 0, "backward": 0, "rest": 2}


def test_a_row_has_the_epoch_from_1_and_its_metrics() -> None:
    history = History("lightning")
    history.start()
    history.validated(measured(val_loss=3.0, val_accuracy=0.5))
    history.end(0, measured(train_loss=2.0, train_loss_step=9.0))
    assert row(history) == {"epoch": 1, "train/loss": 2.0, "val/loss": 3.0, "val/accuracy": 0.5}


def test_the_seconds_of_an_epoch_are_those_since_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    history = History("lightning")
    for epoch in range(2):
        history.start()
        history.end(epoch, {})
    assert [found["seconds"] for found in history.rows] == [2.5, 1.0]


def test_the_last_validation_of_an_epoch_counts() -> None:
    history = History("lightning")
    for loss in (3.0, 1.0, 2.0):
        history.validated(measured(train_loss=9.0, val_loss=loss))
    history.end(0, measured(train_loss=2.0))
    assert row(history) == {"epoch": 1, "train/loss": 2.0, "val/loss": 2.0}
    # An epoch without a validation has none, though both loops still know the metrics of the last.
    history.end(1, measured(train_loss=1.0, val_loss=2.0))
    assert row(history) == {"epoch": 2, "train/loss": 1.0}


def test_an_interrupted_epoch_keeps_its_validation() -> None:
    first, second = History("lightning"), History("lightning")
    first.validated(measured(val_loss=4.0))
    first.end(0, measured(train_loss=3.0))
    first.validated(measured(val_loss=2.0))
    state = first.state_dict()
    assert state["val"] == {"val/loss": 2.0}
    second.load_state_dict(state)
    second.end(1, measured(train_loss=1.0))
    assert second.rows[0] == first.rows[0]
    assert row(second) == {"epoch": 2, "train/loss": 1.0, "val/loss": 2.0}
    assert len(state["rows"]) == 1  # what was saved is not added to


def plateau(*shown: float) -> ReduceLROnPlateau:
    scheduler = ReduceLROnPlateau(SGD([nn.Parameter(torch.zeros(1))], lr=1.0), patience=0)
    for loss in shown:
        scheduler.step(loss)
    return scheduler


def with_losses(*losses: float) -> History:
    history = History("lightning")
    for epoch, loss in enumerate(losses):
        history.validated(measured(val_loss=loss))
        history.end(epoch, {})
    return history


def test_a_resumed_plateau_schedule_sees_the_last_epoch_of_the_checkpoint() -> None:
    scheduler = plateau(2.0)
    with_losses(2.0, 3.0).show_last(scheduler, "val/loss")
    assert scheduler.state_dict() == plateau(2.0, 3.0).state_dict()
    assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_resumed_plateau_schedule_of_every_second_epoch_sees_no_other() -> None:
    scheduler = plateau(2.0)
    with_losses(1.0, 2.0, 3.0).show_last(scheduler, "val/loss", every=2)
    assert scheduler.state_dict() == plateau(2.0).state_dict()
    with_losses(1.0, 2.0, 3.0, 4.0).show_last(scheduler, "val/loss", every=2)
    assert scheduler.state_dict() == plateau(2.0, 4.0).state_dict()


@pytest.mark.parametrize(
    ("losses", "monitor"),
    [((), "val/loss"), ((2.0,), "val/loss"), ((2.0, 3.0), "val/accuracy")],
    ids=["a new run", "it was shown all", "it was not measured"],
)
def test_a_plateau_schedule_sees_no_epoch_twice(losses: tuple[float, ...], monitor: str) -> None:
    scheduler = plateau(2.0)
    with_losses(*losses).show_last(scheduler, monitor)
    assert scheduler.state_dict() == plateau(2.0).state_dict()


@pytest.mark.parametrize(
    "state",
    [
        {"rows": [{"epoch": 1, "seconds": [2.0]}], "val": {}},
        {"rows": [None], "val": {}},
        {"rows": [], "val": {"val/loss": "x"}},
        {"rows": [], "val": {}, "trained_by": "homemade", "weights": None},
        {"rows": [], "val": {}, "trained_by": ["homemade"], "weights": 3},
    ],
)
def test_an_invalid_history_is_refused(state: dict[str, Any]) -> None:
    history = History("lightning")
    with pytest.raises(ValueError, match=r"invalid (row|metrics|names|path) of "):
        history.load_state_dict(state)
    assert (history.rows, history.val) == ([], {})


def test_a_history_keeps_its_loops_and_initial_weights() -> None:
    first = History("lightning", weights="first.ckpt")
    second, third = History("homemade"), History("homemade")
    second.load_state_dict(first.state_dict())
    third.load_state_dict(second.state_dict())
    assert (third.loops, third.weights) == (["lightning", "homemade"], "first.ckpt")
