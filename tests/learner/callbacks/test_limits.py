"""Limits of batches and steps."""

import pytest

from tests.learner.learners import scalar
from twinloop.learner import Callback
from twinloop.learner.callbacks import (
    AccumulateCB,
    LimitBatchesCB,
    LimitStepsCB,
    ResumeCB,
    SingleBatchCB,
    TraceCB,
    ValidateCB,
)
from twinloop.learner.callbacks.checkpoint import pack_state
from twinloop.learner.callbacks.limits import limited


def counted(*cbs: Callback, n_epochs: int = 1, valid: bool = True) -> tuple[int, int, int]:
    """The batches of train (of ten an epoch) and of valid (of four), and the epochs."""
    learn = scalar(*cbs, trace := TraceCB(), train=10, valid=4)
    learn.fit(n_epochs, valid=valid)
    stages = [event.stage for event in trace.events if event.event == "before_batch"]
    return stages.count("train"), stages.count("val"), learn.epoch


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (1.0, 1.0, (10, 4)),
        (3, 99, (3, 4)),
        (1, 0, (1, 0)),
        (0.35, 0.7, (3, 2)),  # 3.5 and 2.8: rounded down
        (0.05, 0.0, (0, 0)),
    ],
)
def test_a_number_of_batches_or_a_share(
    train: int | float, val: int | float, expected: tuple[int, int]
) -> None:
    assert counted(LimitBatchesCB(train, val), n_epochs=2)[:2] == tuple(2 * n for n in expected)


def test_one_is_one_batch_and_one_point_nothing_is_all() -> None:
    assert (limited(10, 1), limited(10, 1.0)) == (1, 10)


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(1, (1, 4, 1)), (10, (10, 4, 1)), (13, (13, 8, 2))]
)
def test_the_number_of_steps(max_steps: int, expected: tuple[int, int, int]) -> None:
    assert counted(LimitStepsCB(max_steps), n_epochs=5) == expected


def test_a_step_may_take_several_batches() -> None:
    assert counted(LimitStepsCB(2), AccumulateCB(3), n_epochs=5)[0] == 6


def test_the_validation_that_is_due_is_done() -> None:
    cbs = [LimitStepsCB(4), ValidateCB(every_n_batches=2)]
    assert counted(*cbs, n_epochs=5, valid=False) == (4, 8, 1)


@pytest.mark.parametrize("max_steps", [10, 20])
def test_steps_before_a_checkpoint_count(max_steps: int) -> None:
    done = scalar(LimitStepsCB(10), train=10)
    done.fit(1)
    learn = scalar(LimitStepsCB(max_steps), train=10)
    learn.fit(5, cbs=[ResumeCB(pack_state(done))])
    assert learn.steps == max_steps


def test_a_single_batch() -> None:
    assert counted(SingleBatchCB(), n_epochs=3) == (1, 0, 0)


@pytest.mark.parametrize("again", [False, True], ids=["in the second fit", "in both"])
def test_the_steps_of_an_earlier_fit_do_not_count(again: bool) -> None:
    learn = scalar(train=10)
    for cbs in ([LimitStepsCB(4)] if again else [], [LimitStepsCB(4)]):
        before = learn.steps
        learn.fit(1, cbs=cbs)
    assert learn.steps - before == 4
