"""What a Learner offers at a prompt."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.learner.learners import ONES, scalar
from twinloop.learner import Callback, DataLoaders, Learner, MomentumLearner
from twinloop.learner.callbacks import (
    LRFinderCB,
    MetricsCB,
    ProgressCB,
    SingleBatchCB,
)

# --- callbacks in and out -----------------------------------------------------------------------


def test_a_callback_that_is_added_stays_in_its_place_until_it_is_removed() -> None:
    learn = scalar(progress := ProgressCB(), single := SingleBatchCB())
    learn.add_cb(metrics := MetricsCB())
    assert learn.cbs == [metrics, progress, single]
    learn.fit(1)
    assert learn.steps == 1
    learn.rm_cb(SingleBatchCB)
    learn.rm_cb(progress)
    assert learn.cbs == [metrics]
    learn.fit(1)
    assert learn.steps == 1 + 3
    assert list(learn.metrics) == ["train/loss", "val/loss"]


def test_several_are_added_and_removed_at_once() -> None:
    learn = scalar(MetricsCB())
    learn.add_cb([ProgressCB(), SingleBatchCB()], ProgressCB())
    learn.rm_cb(ProgressCB, MetricsCB)
    assert [type(cb) for cb in learn.cbs] == [SingleBatchCB]


def test_what_is_not_there_cannot_be_removed_nor_what_is_there_be_added() -> None:
    learn = scalar(metrics := MetricsCB())
    with pytest.raises(ValueError, match="no ProgressCB among the callbacks; there are: MetricsCB"):
        learn.rm_cb(ProgressCB)
    with pytest.raises(ValueError, match="no such MetricsCB among"):
        learn.rm_cb(MetricsCB())
    with pytest.raises(ValueError, match="one and the same MetricsCB is given twice"):
        learn.add_cb(metrics)
    with pytest.raises(ValueError, match="one and the same MetricsCB is given twice"):
        learn.fit(1, cbs=metrics)
    learn.fit(1)


@pytest.mark.parametrize("change", [Learner.add_cb, Learner.rm_cb])
def test_inside_a_fit_callbacks_stay_as_they_are(change: Any) -> None:
    class Changes(Callback):
        def before_epoch(self, learn: Learner) -> None:
            change(learn, single)

    learn = scalar(single := SingleBatchCB(), changes := Changes())
    with pytest.raises(RuntimeError, match="cannot be added or removed inside a fit; do so before"):
        learn.fit(1)
    assert learn.cbs == [changes, single]


# --- two learners -------------------------------------------------------------------------------


def test_two_learners_cannot_take_turns_with_one_set_of_callbacks() -> None:
    cbs = [MetricsCB(), SingleBatchCB()]
    first, second = scalar(*cbs), scalar(*cbs)
    with pytest.raises(ValueError, match="another Learner was given this MetricsCB since"):
        first.fit(1)
    first.add_cb(ProgressCB())  # takes none of the others back
    with pytest.raises(ValueError, match="another Learner was given this MetricsCB since"):
        first.fit(1)
    second.fit(1)  # as the lesson has it: a new Learner gets the callbacks of the one before
    assert (first.steps, second.steps) == (0, 1)
    first.cbs = [MetricsCB()]
    first.fit(1)
    first.add_cb(cbs[1])
    with pytest.raises(ValueError, match="another Learner was given this SingleBatchCB since"):
        second.fit(1)


def test_callbacks_of_one_fit_and_copies_belong_to_nobody_else() -> None:
    learn, other = scalar(MetricsCB()), scalar()
    finder = LRFinderCB()
    for one in (learn, other, deepcopy(learn), learn):
        one.fit(1, cbs=[finder])
    assert len(finder.losses) == 3


# --- as text ------------------------------------------------------------------------------------


def test_it_is_a_few_lines_of_text() -> None:
    learn = scalar(SingleBatchCB(), MetricsCB())
    assert repr(learn).splitlines() == [
        "TrainLearner",
        "  model      Linear, 2 parameters",
        "  batches    3 of train, 1 of valid",
        "  loss       mse_loss",
        "  optimiser  SGD, lr 0.1",
        "  callbacks  MetricsCB, SingleBatchCB",
        "  steps      0",
    ]
    learn.rm_cb(SingleBatchCB)
    learn.fit(1)
    losses = "  ".join(f"{name} {float(loss):.4f}" for name, loss in learn.metrics.items())
    assert repr(learn).splitlines()[-2:] == ["  steps      3", f"  metrics    {losses}"]


def test_the_text_names_what_is_made_by_parts() -> None:
    dls = DataLoaders([ONES], [])
    learn = MomentumLearner(
        nn.Linear(1, 1), dls, nn.MSELoss(), opt_func=partial(torch.optim.AdamW, weight_decay=0.1)
    )
    text = repr(learn)
    assert text.startswith("MomentumLearner\n")
    assert "loss       MSELoss\n  optimiser  AdamW, lr 0.1\n  callbacks  none\n" in text
    learn.steps = 1200
    assert "steps      1,200" in repr(learn)
