"""Events, their order, and what a mistake in a callback says."""

import ast
import inspect
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    DataLoaders,
    Learner,
    TrainLearner,
    callback,
)
from twinloop.learner.callback import CANCELS, EVENTS, LOOPS, HasCallbacks, in_order, with_cbs
from twinloop.learner.callbacks import GradientClipCB, MetricsCB, MixedPrecisionCB, TrainCB

Batches = list[tuple[Tensor, Tensor]]


def batches(n: int = 2) -> Batches:
    return [(torch.ones(2, 1), torch.ones(2, 1))] * n


def learner(*cbs: Callback) -> Learner:
    dls = DataLoaders(batches(), batches())
    return Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)


def looped(loop: str, raises: Mapping[str, BaseException]) -> list[str]:
    """What a loop in this decorator does, if its parts raise that."""
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


# --- with_cbs -----------------------------------------------------------------------------------


def test_the_events_are_those_of_the_loops_and_three_in_a_batch() -> None:
    assert LOOPS == ("fit", "epoch", "batch", "step")
    assert len(EVENTS) == len(set(EVENTS)) == 15
    assert {"before_fit", "after_step", "cleanup_batch", "after_loss"} <= set(EVENTS)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["before", "body", "body", "after", "cleanup"]),
        ("before", ["before", "cleanup"]),
        ("body", ["before", "body", "cleanup"]),
        ("after", ["before", "body", "body", "after", "cleanup"]),
    ],
)
def test_a_loops_own_cancel_leaves_out_the_rest_but_cleanup(
    loop: str, where: str | None, expected: list[str]
) -> None:
    def name(part: str) -> str:
        return part if part == "body" else f"{part}_{loop}"

    raises = {name(where): CANCELS[loop]()} if where else {}
    assert looped(loop, raises) == [name(part) for part in expected]


@pytest.mark.parametrize(
    ("loop", "error"),
    [
        *((loop, cancel) for loop in LOOPS for own, cancel in CANCELS.items() if own != loop),
        *((loop, kind) for loop in LOOPS for kind in (ValueError, KeyboardInterrupt)),
    ],
)
def test_anything_else_passes_through_after_cleanup(loop: str, error: type[BaseException]) -> None:
    found = looped(loop, {"body": error()})
    assert found == [f"before_{loop}", "body", f"cleanup_{loop}", error.__name__]


def test_the_decorator_is_at_most_15_lines() -> None:
    (tree,) = [
        node
        for node in ast.parse(inspect.getsource(callback)).body
        if isinstance(node, ast.ClassDef) and node.name == "with_cbs"
    ]
    assert ast.get_docstring(tree)
    del tree.body[0]
    assert len([line for line in ast.unparse(tree).splitlines() if line]) <= 15


# --- in a fit -----------------------------------------------------------------------------------


class Raises(Callback):
    """Raises at one place in a fit."""

    def __init__(self, event: str, error: BaseException, epoch: int = 0, num: int = 0) -> None:
        self.error, self.at = error, (epoch, num)
        setattr(self, event, self._raise)

    def _raise(self, learn: Learner) -> None:
        if (learn.epoch, learn.num) == self.at:
            raise self.error


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
    says = Says()
    learn = TrainLearner(
        nn.Linear(1, 1), DataLoaders(batches(1), ()), nn.functional.mse_loss, cbs=[says]
    )
    learn.fit(1, valid=False, cbs=[Raises(event, cancel())])
    assert not left_out & set(says.said)
    # Whatever was begun was cleaned up, and only that.
    for loop in LOOPS:
        assert says.said.count(f"before_{loop}") == says.said.count(f"cleanup_{loop}")
    after = {name for name in EVENTS if name.startswith("after_") and name[6:] in LOOPS}
    begun = {name for name in after if f"before_{name[6:]}" in says.said}
    assert begun - left_out == after & set(says.said)


def test_a_cancelled_batch_is_not_trained_on_and_the_next_one_is() -> None:
    learn = learner(TrainCB(), Raises("before_batch", CancelBatchException(), num=0))
    learn.fit(2)
    assert learn.steps == 3


# --- who answers what ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["predict", "get_loss", "backward", "step", "zero_grad"])
def test_a_verb_that_nobody_implements_is_an_error(verb: str) -> None:
    others = type("Others", (TrainCB,), {verb: None})
    learn = learner(others())
    before = [weight.clone() for weight in learn.model.parameters()]
    with pytest.raises(TypeError, match=rf"nobody implements '{verb}': add a TrainCB"):
        learn.fit(1)
    assert all(map(torch.equal, before, learn.model.parameters()))


def test_no_verb_at_all_is_an_error() -> None:
    with pytest.raises(TypeError, match="nobody implements 'predict'"):
        learner().fit(1)
    with pytest.raises(AttributeError, match="Learner has no attribute 'predict'"):
        learner().one_batch()


def test_two_owners_of_a_verb_are_an_error() -> None:
    with pytest.raises(TypeError, match="TrainCB, MixedPrecisionCB all want to do 'predict'"):
        learner(TrainCB(), MixedPrecisionCB()).fit(1)
    dls = DataLoaders(batches(), batches())
    with pytest.raises(TypeError, match="TrainLearner, TrainCB all want to do 'predict'"):
        TrainLearner(nn.Linear(1, 1), dls, cbs=[TrainCB()]).fit(1)


def test_callbacks_of_one_fit_are_checked_and_gone_after_it() -> None:
    learn = learner(TrainCB())
    own = learn.cbs
    with pytest.raises(TypeError, match="TrainCB, TrainCB all want"):
        learn.fit(1, cbs=[TrainCB()])
    assert learn.cbs is own
    learn.fit(1, cbs=[says := Says()])
    assert learn.cbs is own
    assert says.said.count("after_fit") == 1


def test_a_subclass_does_one_verb_otherwise() -> None:
    class Zero(TrainCB):
        def get_loss(self, learn: Learner) -> None:
            learn.loss = 0 * learn.preds.sum()

    learn = learner(Zero())
    before = [weight.clone() for weight in learn.model.parameters()]
    learn.fit(1)
    assert learn.steps == 2
    assert all(map(torch.equal, before, learn.model.parameters()))


def test_anything_else_that_is_missing_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Learner has no attribute 'predcit'"):
        _ = learner(TrainCB()).predcit


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("after_bacth", "after_batch"),
        ("before_epochs", "before_epoch"),
        ("cleanup_fti", "cleanup_fit"),
        ("after_losses", "after_loss"),
    ],
)
def test_a_misspelled_event_is_an_error_that_names_the_nearest(name: str, nearest: str) -> None:
    class Misspelled(Callback):
        pass

    setattr(Misspelled, name, Misspelled.state_dict)
    message = rf"^Misspelled\.{name} is no event; did you mean '{nearest}'\?$"
    with pytest.raises(TypeError, match=message):
        learner(TrainCB(), Misspelled())
    with pytest.raises(TypeError, match=message):
        learner(TrainCB()).fit(1, cbs=[Misspelled()])


# --- the order ----------------------------------------------------------------------------------


class A(Callback):
    """Needs nothing."""


class B(Callback):
    """Comes after A."""

    follows = ("A",)


class C(Callback):
    """Comes before A."""

    precedes = ("A",)


class SubA(A):
    """Is an A."""


class D(Callback):
    """Needs nothing either."""


class E(Callback):
    """Comes after B, which comes after A."""

    follows = ("B",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([A, D], [A, D]),
        ([D, A], [D, A]),
        ([B, A], [A, B]),
        ([A, B], [A, B]),
        ([B, D, A], [D, A, B]),
        ([A, C], [C, A]),
        ([B, SubA], [SubA, B]),
        ([SubA, C], [C, SubA]),
        ([E, B, A], [A, B, E]),
        ([E, A], [E, A]),  # nobody is between them
        ([B, B, A, A], [A, A, B, B]),
        ([E, B, A, D, C], [D, C, A, B, E]),
    ],
)
def test_callbacks_come_by_what_they_need_and_else_as_given(
    given: list[type[Callback]], expected: list[type[Callback]]
) -> None:
    made = [kind() for kind in given]
    found = in_order(made)
    assert [type(cb) for cb in found] == expected
    for kind in set(given):  # those of one class stay as they were
        assert [cb for cb in found if type(cb) is kind] == [cb for cb in made if type(cb) is kind]


def test_a_cycle_is_an_error_that_names_it() -> None:
    class Before(Callback):
        precedes = ("After",)
        follows = ("After",)

    class After(Callback):
        pass

    with pytest.raises(ValueError, match=r"want to come before the other: Before, After"):
        in_order([D(), Before(), After()])


def test_the_summary_says_who_answers_what_in_order() -> None:
    learn = learner(GradientClipCB(1.0), D(), MetricsCB(), TrainCB())
    assert learn.summary().splitlines() == [
        "GradientClipCB  before_step",
        "D               ",
        "MetricsCB       before_fit, before_epoch, after_epoch, after_loss",
        "TrainCB         predict, get_loss, backward, step, zero_grad",
    ]
    assert learner().summary() == ""


# --- errors -------------------------------------------------------------------------------------


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@pytest.mark.parametrize("event", [event for event in EVENTS if event[-3:] != "fit"])
def test_an_error_says_where_it_was(event: str) -> None:
    num = 2 if event in ("after_epoch", "cleanup_epoch") else 0 if event == "before_epoch" else 1
    learn = learner(TrainCB(), Raises(event, error := ZeroDivisionError(), epoch=1, num=num))
    with pytest.raises(ZeroDivisionError) as caught:
        learn.fit(3)
    assert caught.value is error
    assert notes(error) == [f"in Raises.{event}, epoch 1, batch {num}"]


def test_an_error_in_one_of_the_five_verbs_says_where_it_was() -> None:
    learn = learner(TrainCB())
    learn.dls.train[1] = (torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        learn.fit(1)
    assert notes(caught.value) == ["in TrainCB.predict, epoch 0, batch 1"]


def test_a_cancel_gets_no_note() -> None:
    cancel = CancelFitException()
    learner(TrainCB(), Raises("after_batch", cancel)).fit(1)
    assert notes(cancel) == []


@pytest.mark.parametrize("loop", LOOPS)
def test_every_cleanup_runs_also_when_one_raises(loop: str) -> None:
    event = f"cleanup_{loop}"
    first, second = ValueError("first"), KeyError("second")
    epoch, num = {"fit": (1, 2), "epoch": (0, 2)}.get(loop, (0, 0))
    learn = learner(
        TrainCB(),
        before := Says(),
        Raises(event, first, epoch, num),
        Raises(event, second, epoch, num),
        after := Says(),
    )
    with pytest.raises(ValueError, match="first"):
        learn.fit(1)
    for says in (before, after):
        for name in LOOPS:
            assert says.said.count(f"cleanup_{name}") == says.said.count(f"before_{name}")
    assert after.said[-1] == "cleanup_fit"
    assert "after_fit" not in before.said or loop == "fit"


def test_a_cancel_on_cleanup_does_not_hide_an_error() -> None:
    cbs = [
        Raises("cleanup_batch", CancelFitException()),
        Raises("cleanup_batch", ValueError("real")),
    ]
    with pytest.raises(ValueError, match="real"):
        learner(TrainCB(), *cbs).fit(1)


def test_a_cleanup_that_raises_keeps_the_error_that_came_before() -> None:
    cbs = [
        Raises("after_loss", ValueError("first")),
        Raises("cleanup_fit", ZeroDivisionError()),
    ]
    with pytest.raises(ZeroDivisionError) as caught:
        learner(TrainCB(), *cbs).fit(1)
    assert isinstance(caught.value.__context__, ValueError)


def test_without_callbacks_nothing_happens() -> None:
    loop = HasCallbacks()
    for event in EVENTS:
        loop.callback(event)
    assert loop.stage == "train"
