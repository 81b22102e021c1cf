"""Events, the order of callbacks, and what a mistake in a callback says."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.learner.learners import ONES, Raises, assert_equal, scalar, weights
from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    DataLoaders,
    Learner,
    callbacks,
)
from twinloop.learner.callback import CANCELS, EVENTS, LOOPS, sort_callbacks, with_cbs
from twinloop.learner.callbacks import GradientClipCB, MetricsCB, MixedPrecisionCB, TrainCB


def learner(*cbs: Callback) -> Learner:
    dls = DataLoaders([ONES, ONES], [ONES, ONES])
    return Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)


def at(epoch: int, num: int) -> Callable[[Learner], bool]:
    return lambda learn: (learn.epoch, learn.num) == (epoch, num)


# --- with_cbs -----------------------------------------------------------------------------------


def looped(loop: str, raises: Mapping[str, BaseException]) -> list[str]:
    """The events of a decorated loop whose parts raise that, and the error that leaves it."""
    said: list[str] = []

    class Loop:
        def callback(self, event: str) -> None:
            said.append(event)
            if event in raises:
                raise raises[event]

        @with_cbs(loop)
        def once(self, *, times: int) -> None:
            """Say so."""
            for _ in range(times):
                self.callback("body")

    assert (Loop.once.__name__, Loop.once.__doc__) == ("once", "Say so.")
    try:
        Loop().once(times=2)
    except BaseException as error:
        said.append(type(error).__name__)
    return said


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["before_{}", "body", "body", "after_{}", "cleanup_{}"]),
        ("before_{}", ["before_{}", "cleanup_{}"]),
        ("body", ["before_{}", "body", "cleanup_{}"]),
        ("after_{}", ["before_{}", "body", "body", "after_{}", "cleanup_{}"]),
    ],
)
def test_a_loops_own_cancel_skips_the_rest_but_cleanup(
    where: str | None, expected: list[str]
) -> None:
    for loop in LOOPS:
        raises = {where.format(loop): CANCELS[loop]()} if where else {}
        assert looped(loop, raises) == [name.format(loop) for name in expected]


@pytest.mark.parametrize(
    ("loop", "error"),
    [
        ("batch", CancelFitException),
        ("fit", CancelBatchException),
        ("step", KeyboardInterrupt),
        ("epoch", ValueError),
    ],
)
def test_anything_else_passes_through_after_cleanup(loop: str, error: type[BaseException]) -> None:
    found = looped(loop, {"body": error()})
    assert found == [f"before_{loop}", "body", f"cleanup_{loop}", error.__name__]


# --- in a fit -----------------------------------------------------------------------------------


class Says(Callback):
    """Says which events came of the loops."""

    def __init__(self) -> None:
        self.said: list[str] = []
        for event in EVENTS:
            setattr(self, event, partial(self._say, event))

    def _say(self, event: str, learn: Learner) -> None:
        self.said.append(event)


@pytest.mark.parametrize(
    ("event", "cancel", "left_out"),
    [
        ("before_fit", CancelFitException, {"after_fit", "before_epoch", "before_batch"}),
        ("before_epoch", CancelEpochException, {"after_epoch", "before_batch", "before_step"}),
        ("before_batch", CancelBatchException, {"after_batch", "after_predict", "before_step"}),
        ("after_predict", CancelBatchException, {"after_batch", "after_loss", "before_step"}),
        ("after_backward", CancelFitException, {"after_batch", "after_epoch", "after_fit"}),
        ("before_step", CancelStepException, {"after_step"}),
    ],
)
def test_a_cancel_in_a_fit(event: str, cancel: type[Exception], left_out: set[str]) -> None:
    learn = scalar(says := Says(), train=1)
    learn.fit(1, valid=False, cbs=[Raises(event, cancel(), at(0, 0))])
    assert not left_out & set(says.said)
    # Whatever was begun was cleaned up, and only that.
    for loop in LOOPS:
        assert says.said.count(f"before_{loop}") == says.said.count(f"cleanup_{loop}")
    after = {name for name in EVENTS if name.startswith("after_") and name[6:] in LOOPS}
    begun = {name for name in after if f"before_{name[6:]}" in says.said}
    assert begun - left_out == after & set(says.said)


def test_a_cancelled_batch_is_not_trained_on_and_the_next_one_is() -> None:
    learn = learner(TrainCB(), Raises("before_batch", CancelBatchException(), at(0, 0)))
    learn.fit(2)
    assert learn.steps == 3


# --- the five verbs -----------------------------------------------------------------------------


def test_a_verb_that_nobody_implements_is_an_error() -> None:
    learn = learner(type("Others", (TrainCB,), {"step": None})())
    before = weights(learn)
    with pytest.raises(TypeError, match=r"nobody implements 'step': add a TrainCB"):
        learn.fit(1)
    assert_equal(weights(learn), before)
    with pytest.raises(AttributeError, match="Learner has no attribute 'predict'"):
        learner().one_batch()
    with pytest.raises(AttributeError, match="Learner has no attribute 'predcit'"):
        _ = learner(TrainCB()).predcit


def test_two_owners_of_a_verb_are_an_error() -> None:
    with pytest.raises(TypeError, match="MixedPrecisionCB, TrainCB all implement 'predict'"):
        learner(TrainCB(), MixedPrecisionCB()).fit(1)
    with pytest.raises(TypeError, match="TrainLearner, TrainCB all implement 'predict'"):
        scalar(TrainCB()).fit(1)


def test_callbacks_of_one_fit_are_checked_and_gone_after_it() -> None:
    learn = learner(TrainCB())
    own = learn.cbs
    with pytest.raises(TypeError, match="TrainCB, TrainCB all implement"):
        learn.fit(1, cbs=[TrainCB()])
    assert learn.cbs is own
    learn.fit(1, cbs=[says := Says()])
    assert learn.cbs is own
    assert says.said.count("after_fit") == 1


def test_a_subclass_replaces_one_verb() -> None:
    class Zero(TrainCB):
        def get_loss(self, learn: Learner) -> None:
            learn.loss = 0 * learn.preds.sum()

    learn = learner(Zero())
    before = weights(learn)
    learn.fit(1)
    assert learn.steps == 2
    assert_equal(weights(learn), before)


def test_a_misspelled_event_is_an_error_that_names_the_nearest() -> None:
    misspelled = type("Misspelled", (Callback,), {"after_bacth": Callback.state_dict})()
    message = r"^Misspelled\.after_bacth is no event; did you mean 'after_batch'\?$"
    with pytest.raises(TypeError, match=message):
        learner(TrainCB(), misspelled)
    with pytest.raises(TypeError, match=message):
        learner(TrainCB()).fit(1, cbs=[misspelled])


def test_an_attribute_that_is_named_like_an_event_is_no_method() -> None:
    class Counts(Callback):
        after_steps = 3

        def before_fit(self, learn: Learner) -> None:
            self.before_rate = 0.5

    learn = learner(TrainCB(), Counts())
    learn.fit(1)
    learn.fit(1)
    event = type("Data", (Callback,), {"after_fit": 3})()
    with pytest.raises(TypeError, match=r"^Data\.after_fit is an event, and must be a method$"):
        learn.fit(1, cbs=[event])


def test_one_callback_may_be_given_in_place_of_a_list() -> None:
    learn = Learner(nn.Linear(1, 1), DataLoaders([ONES], []), nn.functional.mse_loss, cbs=TrainCB())
    learn.fit(1, cbs=(says := Says()))
    assert says.said.count("after_batch") == learn.steps == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([TrainCB], r"is no callback; make one of it: TrainCB\(\.\.\.\)$"),
        ("TrainCB", "^'T' is no callback$"),
        ([None], "^None is no callback$"),
    ],
)
def test_what_is_no_callback_is_an_error(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        learner(TrainCB()).fit(1, cbs=given)


# --- the order ----------------------------------------------------------------------------------


def test_callbacks_are_sorted_by_order_and_else_as_given() -> None:
    class Early(Callback):
        order = GradientClipCB.order - 1

    cbs = [GradientClipCB(1.0), Says(), Early(), MetricsCB(), Says()]
    assert sort_callbacks(cbs) == [cbs[n] for n in (3, 1, 4, 2, 0)]


def test_the_places_of_all_callbacks() -> None:
    kinds = sorted(
        (cb for name, cb in vars(callbacks).items() if name.endswith("CB")),
        key=lambda cb: (cb.order, cb.__name__),
    )
    places = itertools.groupby(kinds, key=lambda cb: cb.order)
    assert [" ".join(cb.__name__.removesuffix("CB") for cb in place) for _, place in places] == [
        "Trace",
        "Anomaly BatchSched EpochSched FiniteLoss LimitBatches",
        "Device",
        "Average",
        "Metrics",
        "EarlyStopping",
        "TruePrecision",
        "Logger Progress Recorder TensorBoard",
        "Accumulate",
        "MixedPrecision",
        "ActivationStats Breakpoint Train",
        "Checkpoint",
        "PlateauSched",
        "Resume",
        "LRFinder",
        "Distributed",
        "GradientClip",
        "Validate",
        "LimitSteps SingleBatch",
    ]
    assert Callback.order == 0


def test_the_summary_says_what_each_callback_implements_in_order() -> None:
    learn = learner(GradientClipCB(1.0), Callback(), MetricsCB(), TrainCB())
    assert learn.summary().splitlines() == [
        "MetricsCB       before_fit, before_epoch, after_epoch, after_loss",
        "Callback        ",
        "TrainCB         predict, get_loss, backward, step, zero_grad",
        "GradientClipCB  before_step",
    ]
    assert learner().summary() == ""


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "num"), [("before_epoch", 0), ("after_loss", 1), ("cleanup_step", 1)]
)
def test_an_error_says_where_it_was(event: str, num: int) -> None:
    learn = learner(TrainCB(), Raises(event, error := ZeroDivisionError(), at(1, num)))
    with pytest.raises(ZeroDivisionError) as caught:
        learn.fit(3)
    assert caught.value is error
    assert error.__notes__ == [f"in Raises.{event}, epoch 1, batch {num}"]


def test_an_error_in_one_of_the_five_verbs_says_where_it_was() -> None:
    learn = learner(TrainCB())
    learn.dls.train[1] = (torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        learn.fit(1)
    assert caught.value.__notes__ == ["in TrainCB.predict, epoch 0, batch 1"]


@pytest.mark.parametrize(("loop", "epoch", "num"), [("batch", 0, 0), ("fit", 1, 2)])
def test_every_cleanup_runs_also_when_one_raises(loop: str, epoch: int, num: int) -> None:
    errors = ValueError("first"), KeyError("second")
    first, second = (Raises(f"cleanup_{loop}", error, at(epoch, num)) for error in errors)
    learn = learner(TrainCB(), before := Says(), first, second, after := Says())
    with pytest.raises(ValueError, match="first"):
        learn.fit(1)
    for says in (before, after):
        for name in LOOPS:
            assert says.said.count(f"cleanup_{name}") == says.said.count(f"before_{name}")
    assert after.said[-1] == "cleanup_fit"
    assert "after_fit" not in before.said or loop == "fit"


def test_a_cancel_on_cleanup_does_not_hide_an_error() -> None:
    cancel = Raises("cleanup_batch", CancelFitException())
    with pytest.raises(ValueError, match="real"):
        learner(TrainCB(), cancel, Raises("cleanup_batch", ValueError("real"))).fit(1)


def test_a_cleanup_that_raises_keeps_the_error_that_came_before() -> None:
    cbs = [Raises("after_loss", ValueError("first")), Raises("cleanup_fit", ZeroDivisionError())]
    with pytest.raises(ZeroDivisionError) as caught:
        learner(TrainCB(), *cbs).fit(1)
    assert isinstance(caught.value.__context__, ValueError)
