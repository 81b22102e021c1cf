"""The rate of every step, by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from tests.learner.learners import Values, scalar
from twinloop.errors import UserError
from twinloop.learner import Callback, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import (
    AccumulateCB,
    BatchSchedCB,
    EpochSchedCB,
    LimitBatchesCB,
    MetricsCB,
    PlateauSchedCB,
    ValidateCB,
)

halve = partial(StepLR, step_size=1, gamma=0.5)


class Rates(Callback):
    """Writes down the rate of each step, and that of each batch of valid."""

    order = BatchSchedCB.order - 1

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def after_step(self, learn: Learner) -> None:
        self.train.append(learn.opt.param_groups[0]["lr"])

    def after_loss(self, learn: Learner) -> None:
        if not learn.training:
            self.val.append(learn.opt.param_groups[0]["lr"])


def rates(*cbs: Callback, n: int = 3, n_epochs: int = 2, valid: bool = True) -> Rates:
    found = Rates()
    scalar(found, *cbs, train=n, lr=8.0).fit(n_epochs, valid=valid)
    return found


def test_by_the_step() -> None:
    assert rates(BatchSchedCB(halve)).train == [8, 4, 2, 1, 0.5, 0.25]
    assert rates(BatchSchedCB(halve), AccumulateCB(2)).train == [8, 4, 2, 1]


def test_by_the_epoch() -> None:
    assert rates(EpochSchedCB(halve), n_epochs=3).train == [8, 8, 8, 4, 4, 4, 2, 2, 2]
    assert rates(LimitBatchesCB(train=2), EpochSchedCB(halve)).train == [8, 8, 4, 4]


def test_every_so_many() -> None:
    assert rates(BatchSchedCB(halve, every=2)).train == [8, 8, 4, 4, 4, 2]  # 2 of 3 batches, twice
    # As in Lightning: of the batches 2, 4, 6 that it counts only 6 ends in a step.
    found = rates(BatchSchedCB(halve, every=2), AccumulateCB(3), n=7)
    assert found.train == [8, 8, 4, 4, 4, 2]
    assert rates(EpochSchedCB(halve, every=2), n=1, n_epochs=5).train == [8, 8, 4, 4, 2]
    plateau = PlateauSchedCB(partial(ReduceLROnPlateau, factor=0.5, patience=0), every=2)
    worse = Values(val_loss=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert rates(plateau, worse, n=1, n_epochs=5).train == [8, 8, 8, 8, 4]


def test_by_the_epoch_it_steps_before_validation() -> None:
    cbs = [ValidateCB(), EpochSchedCB(halve)]
    assert rates(*cbs, valid=False).val == [4, 2]
    assert rates(EpochSchedCB(halve)).val == [4, 2]
    found = rates(ValidateCB(every_n_batches=1), EpochSchedCB(halve), valid=False)
    assert found.val == [8, 8, 4, 4, 4, 2]
    assert found.train == [8, 8, 8, 4, 4, 4]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 4.0, 4.0, 4.0], [8, 8, 4, 2]),
        ([4.0, 5.0, 3.0, 4.0], [8, 8, 4, 4]),
    ],
)
def test_on_a_plateau(losses: list[float], expected: list[float]) -> None:
    plateau = PlateauSchedCB(partial(ReduceLROnPlateau, factor=0.5, patience=0))
    assert rates(plateau, Values(val_loss=losses), n=1, n_epochs=4).train == expected
    # Also where validation is inside the epoch.
    plateau = PlateauSchedCB(partial(ReduceLROnPlateau, factor=0.5, patience=0))
    cbs = [plateau, Values(val_loss=losses), ValidateCB()]
    assert rates(*cbs, n=1, n_epochs=4, valid=False).train == expected


def test_a_plateau_needs_its_metric() -> None:
    plateau = PlateauSchedCB(ReduceLROnPlateau, "val/accuracy")
    with pytest.raises(UserError, match="no metric 'val/accuracy'"):
        rates(plateau, MetricsCB())


@pytest.mark.parametrize("kind", [BatchSchedCB, EpochSchedCB])
def test_a_scheduler_is_resumed(kind: type[BatchSchedCB | EpochSchedCB]) -> None:
    def linear(opt: torch.optim.Optimizer) -> LambdaLR:
        return LambdaLR(opt, lambda step: 1 / (1 + step))

    first = kind(linear)
    rates(first)
    second = kind(linear)
    learn = TrainLearner(nn.Linear(1, 1), DataLoaders([], []), lr=8.0)
    learn.opt = torch.optim.SGD(learn.model.parameters(), learn.lr)
    second.before_fit(learn)
    second.load_state_dict(first.state_dict())
    second.sched.step()
    assert learn.opt.param_groups[0]["lr"] == 8 / (1 + (7 if kind is BatchSchedCB else 3))


@pytest.mark.parametrize(
    ("kind", "sched_func"),
    [
        (BatchSchedCB, partial(CosineAnnealingLR, T_max=6)),
        (EpochSchedCB, partial(CosineAnnealingLR, T_max=2)),
        (BatchSchedCB, halve),
        (BatchSchedCB, partial(OneCycleLR, max_lr=8.0, total_steps=6)),
    ],
    ids=["cosine by step", "cosine by epoch", "exponential", "one cycle"],
)
def test_a_second_fit_begins_the_schedule_again(kind: Any, sched_func: Any) -> None:
    learn = scalar(found := Rates(), kind(sched_func), lr=8.0)
    learn.fit(2)
    learn.fit(2)
    assert found.train[:6] == found.train[6:]
    assert len(set(found.train)) > 1
    learn.fit(2, lr=16.0)
    if sched_func.func is not OneCycleLR:  # whose rate is its own
        assert found.train[12:] == [2 * rate for rate in found.train[:6]]


def test_a_plateau_is_forgotten_by_the_next_fit() -> None:
    plateau = PlateauSchedCB(partial(ReduceLROnPlateau, factor=0.5, patience=0))
    learn = scalar(found := Rates(), plateau, Values(val_loss=[4.0, 5.0, 6.0]), train=1, lr=8.0)
    learn.fit(3)
    learn.fit(3)
    assert found.train == [8, 8, 4] * 2
