"""A loss that is not finite ends the fit before the step, and only there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.learner.learners import assert_equal, weights
from twinloop.finite import NotFiniteError
from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    DataLoaders,
    Learner,
)
from twinloop.learner.callbacks import AccumulateCB, FiniteLossCB, TrainCB, lr_find

GOOD = (torch.ones(2, 3), torch.ones(2, 1))
BAD = (torch.tensor([[1.0, 1, 1], [1, torch.nan, 1]]), torch.ones(2, 1))


def learner(train: list[Any], valid: list[Any], *cbs: Callback) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    dls = DataLoaders(train, valid)
    return Learner(model, dls, nn.functional.mse_loss, 0.01, [TrainCB(), *cbs])


def rows(loader: list[Any], num: int) -> Tensor:
    return torch.arange(len(loader[num][0])) + 10 * num


def test_the_fit_ends_with_the_weights_of_the_last_good_step() -> None:
    good = learner([GOOD, GOOD], [])
    good.fit(1, valid=False)
    learn = learner([GOOD, GOOD, BAD, GOOD], [], FiniteLossCB(rows))
    with pytest.raises(
        NotFiniteError,
        match=r"^the loss is nan in epoch 1, batch 3 of train \(step 3\); rows 20, 21 of .*; first "
        r"not finite: the input of 0 \(Linear\); ",
    ) as raised:
        learn.fit(2, valid=False)
    assert raised.value.__notes__ == [
        "rows: [20, 21]",
        "in FiniteLossCB.after_backward, epoch 0, batch 2",
    ]
    assert_equal(weights(learn), weights(good))
    assert learn.steps == 2


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_validation_ends_it_too_in_any_of_its_batches(bad: int) -> None:
    valid = [BAD if number == bad else GOOD for number in range(3)]
    learn = learner([GOOD, GOOD], valid, FiniteLossCB(rows))
    with pytest.raises(
        NotFiniteError,
        match=rf"batch {bad + 1} of val \(after step 2\); rows {10 * bad}, {10 * bad + 1} of",
    ):
        learn.fit(1)


def test_a_window_ends_before_its_step() -> None:
    learn = learner([GOOD, GOOD, BAD, GOOD], [], FiniteLossCB(), AccumulateCB(2))
    with pytest.raises(NotFiniteError, match=r"batch 3 of train \(step 2\); first not"):
        learn.fit(1, valid=False)
    assert learn.steps == 1


def test_a_cancelled_batch_or_validation_is_not_checked() -> None:
    class SkipsBad(Callback):
        def before_batch(self, learn: Learner) -> None:
            if not learn.batch[0].isfinite().all() and learn.training:
                raise CancelBatchException

        def after_batch(self, learn: Learner) -> None:
            if not learn.training:
                raise CancelEpochException

    learn = learner([BAD, GOOD], [BAD, GOOD], FiniteLossCB(), SkipsBad())
    learn.fit(2)
    assert learn.steps == 2


def test_computing_a_batch_once_more_leaves_the_random_state() -> None:
    states = []
    for cb in (FiniteLossCB(), Callback()):
        learn = learner([GOOD, BAD], [], cb)
        torch.manual_seed(1)
        try:
            learn.fit(1, valid=False)
        except NotFiniteError:
            assert isinstance(cb, FiniteLossCB)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_search_for_a_rate_may_diverge() -> None:
    learn = learner([GOOD] * 30, [], FiniteLossCB())
    found = lr_find(learn, start=1e10, gamma=1e10, max_mult=torch.inf, end=torch.inf)
    assert found.losses[-1] != found.losses[-1] or found.losses[-1] == torch.inf
