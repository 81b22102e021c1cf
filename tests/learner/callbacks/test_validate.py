"""Validation inside an epoch leaves the epoch as it was."""

import contextlib

import pytest
import torch
from torch import nn

from tests.learner.learners import ONES, Raises, weights
from twinloop.learner import Callback, CancelFitException, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import MetricsCB, TraceCB, ValidateCB

VALID = (torch.zeros(1, 1), torch.full((1, 1), 7.0))


def learner(*cbs: Callback, n_valid: int = 2) -> TrainLearner:
    """Five batches of train."""
    torch.manual_seed(1)
    dls = DataLoaders([ONES] * 5, [VALID] * n_valid)
    return TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)


@pytest.mark.parametrize(
    ("every_n_epochs", "every_n_batches", "expected"),
    [
        (1, None, [(0, 5), (1, 5), (2, 5)]),
        (2, None, [(1, 5)]),
        (1, 2, [(0, 2), (0, 4), (1, 2), (1, 4), (2, 2), (2, 4)]),
        (2, 5, [(1, 5)]),
        (1, 6, []),
        # The batches of all epochs are counted together.
        (None, 7, [(1, 2), (2, 4)]),
        (None, None, [(0, 5), (1, 5), (2, 5)]),
    ],
)
def test_when_it_comes(
    every_n_epochs: int | None, every_n_batches: int | None, expected: list[tuple[int, int]]
) -> None:
    learn = learner(ValidateCB(every_n_epochs, every_n_batches), trace := TraceCB())
    learn.fit(3, valid=False)
    found, trained = [], 0
    for event, stage, epoch, _ in trace.events:
        if event == "before_epoch":
            trained = 0 if stage == "train" else trained
            if stage == "val":
                found.append((epoch, trained))
        trained += (event, stage) == ("before_batch", "train")
    assert found == expected
    assert learn.steps == 15


def test_without_batches_of_valid_it_never_comes() -> None:
    learn = learner(ValidateCB(), trace := TraceCB(), n_valid=0)
    learn.fit(2, valid=False)
    assert {event.stage for event in trace.events} == {"train"}


def test_weights_and_metrics_of_train_are_as_without_it() -> None:
    one = learner(plain := MetricsCB())
    other = learner(validated := MetricsCB(), ValidateCB(every_n_batches=2))
    for learn in (one, other):
        learn.fit(2, valid=False)
    assert all(map(torch.equal, weights(one), weights(other)))
    assert [row["train/loss"] for row in validated.history] == [
        row["train/loss"] for row in plain.history
    ]
    assert all("val/loss" in row for row in validated.history)


class Here(Callback):
    """Writes down all that a callback can see after a batch of train."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.seen: list[tuple[object, ...]] = []

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            where = (learn.num, learn.n_batches, learn.dl is learn.dls.train, learn.stage)
            xb, yb = learn.batch
            at = (learn.preds.item(), learn.loss.item(), xb.item(), yb.item())
            self.seen.append((*where, *at, learn.model.training, torch.is_grad_enabled()))


def test_callbacks_after_it_see_the_batch_of_train() -> None:
    before, after = (Here(ValidateCB.order + n) for n in (-1, 1))
    learner(before, ValidateCB(every_n_batches=1), after).fit(1, valid=False)
    assert len(before.seen) == 5
    assert after.seen == before.seen


@pytest.mark.parametrize("error", [CancelFitException(), ValueError("in valid")])
def test_train_is_cleaned_up_as_train_when_validation_ends_the_fit(error: Exception) -> None:
    class Looks(Raises):
        def cleanup_epoch(self, learn: Learner) -> None:
            cleaned.append(f"{learn.stage} {learn.model.training}")

    cleaned: list[str] = []
    learn = learner(ValidateCB(), Looks("after_loss", error, lambda learn: not learn.training))
    with contextlib.suppress(ValueError):
        learn.fit(2, valid=False)
    assert cleaned == ["val False", "train True"]
