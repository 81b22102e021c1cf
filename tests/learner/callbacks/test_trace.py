"""The order of all events, and a debugger at any of them."""

import sys

import pytest

from tests.learner.learners import Raises, scalar
from twinloop.learner import Callback, CancelBatchException, Learner
from twinloop.learner.callbacks import AccumulateCB, BreakpointCB, TraceCB
from twinloop.learner.callbacks.trace import Traced


def learner(*cbs: Callback) -> Learner:
    return scalar(*cbs, train=2)


def batch_of_train(epoch: int, num: int) -> list[tuple[str, str, int, int]]:
    events = ["before_batch", "after_predict", "after_loss", "after_backward"]
    events += ["before_step", "after_step", "cleanup_step", "after_batch", "cleanup_batch"]
    return [(event, "train", epoch, num) for event in events]


def test_two_epochs_as_a_whole() -> None:
    learner(trace := TraceCB()).fit(2)
    expected: list[tuple[str, str, int, int]] = [("before_fit", "train", 0, 0)]
    for epoch in (0, 1):
        expected += [
            ("before_epoch", "train", epoch, 0),
            *batch_of_train(epoch, 0),
            *batch_of_train(epoch, 1),
            ("after_epoch", "train", epoch, 2),
            ("cleanup_epoch", "train", epoch, 2),
            ("before_epoch", "val", epoch, 0),
            ("before_batch", "val", epoch, 0),
            ("after_predict", "val", epoch, 0),
            ("after_loss", "val", epoch, 0),
            ("after_batch", "val", epoch, 0),
            ("cleanup_batch", "val", epoch, 0),
            ("after_epoch", "val", epoch, 1),
            ("cleanup_epoch", "val", epoch, 1),
        ]
    expected += [("after_fit", "val", 2, 1), ("cleanup_fit", "val", 2, 1)]
    assert trace.events == expected
    assert isinstance(trace.events[0], Traced)


def test_a_step_that_is_left_out() -> None:
    learner(trace := TraceCB(), AccumulateCB(2)).fit(1, valid=False)
    steps = [event.event for event in trace.events if event.event.endswith("_step")]
    first, second = ["before_step", "cleanup_step"], ["before_step", "after_step", "cleanup_step"]
    assert steps == first + second


def test_a_batch_that_is_left_out() -> None:
    skip = Raises("after_loss", CancelBatchException(), lambda learn: learn.num == 0)
    learner(trace := TraceCB(), skip).fit(1, valid=False)
    found = [event.event for event in trace.events if event.num == 0]
    begun = ["before_batch", "after_predict", "after_loss", "cleanup_batch"]
    assert found == ["before_fit", "before_epoch", *begun]


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which function the debugger was called, instead of a debugger."""
    found: list[str] = []
    monkeypatch.setattr(
        sys, "breakpointhook", lambda: found.append(sys._getframe(1).f_code.co_name)
    )
    return found


def test_a_breakpoint_stops_where_its_condition_holds(stops: list[str]) -> None:
    asked = []

    def when(learn: Learner) -> bool:
        asked.append((learn.epoch, learn.stage, learn.num))
        return asked[-1] == (1, "train", 1)

    learner(BreakpointCB("after_loss", when)).fit(2)
    assert stops == ["_stop"]
    assert asked == [
        (epoch, stage, num)
        for epoch in range(2)
        for stage, num in [("train", 0), ("train", 1), ("val", 0)]
    ]


def test_without_a_condition_it_stops_every_time(stops: list[str]) -> None:
    learner(BreakpointCB("after_step")).fit(3)
    assert len(stops) == 6


@pytest.mark.parametrize("event", ["after_bacth", "predict"])
def test_a_breakpoint_at_no_event_is_an_error(event: str) -> None:
    with pytest.raises(TypeError, match=rf"BreakpointCB\.{event} is no event; did you mean"):
        BreakpointCB(event)
