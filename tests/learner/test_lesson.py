"""Whoever uses a name of the lesson that is another one here is told which."""

import re
from importlib import import_module
from typing import Any

import pytest
from torch import nn

from tests.learner.learners import scalar
from twinloop import learner
from twinloop.learner import MomentumLearner, callbacks
from twinloop.learner.lesson import OURS


@pytest.mark.parametrize(
    ("name", "ours"), [("iter", "num"), ("epochs", "n_epochs"), ("nothing", None)]
)
def test_an_attribute_of_the_lessons_learner(name: str, ours: str | None) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(scalar(), name)
    more = f"; the lesson's {name} is {ours} here" if ours else ""
    assert str(caught.value) == f"TrainLearner has no attribute {name!r}{more}"


@pytest.mark.parametrize("package", ["learner", "learner.callbacks"])
def test_an_import_of_a_name_of_the_lesson(package: str) -> None:
    with pytest.raises(ImportError, match="the lesson's ActivationStats is ActivationStatsCB of "):
        exec(f"from twinloop.{package} import ActivationStats")
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec(f"from twinloop.{package} import Nothing")


def test_a_callback_is_looked_for_where_the_lesson_has_it() -> None:
    learner = import_module("twinloop.learner")
    assert learner.MetricsCB is callbacks.MetricsCB
    assert not hasattr(learner, "NoneOfOursCB")
    assert not hasattr(callbacks, "NoneOfOursCB")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MomentumLearner(nn.Linear(1, 1), ([], []), mom=0.9), "mom= is momentum= here"),  # type: ignore[call-arg, arg-type]
        (lambda: scalar().lr_find(start_lr=1e-4), "start_lr= is start= here"),
        (lambda: scalar().lr_find(max_epochs=2), "max_epochs= is n_epochs= here"),
    ],
)
def test_a_keyword_of_the_lesson(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^the lesson's {message}$"):
        call()


def test_what_is_named_is_there_and_what_is_renamed_is_not() -> None:
    for name, ours in OURS.items():
        assert not hasattr(scalar(), name), name
        assert name not in vars(learner) | vars(callbacks), name
        first, _, where = ours.partition(" of ")
        if where == "twinloop.learner.callbacks":
            for part in re.findall(r"\w+CB", first):
                assert hasattr(callbacks, part)
