"""Validation inside an epoch leaves the epoch as it was."""

import pytest
import torch
from torch import nn

from twinloop.learner import Callback, CancelFitException, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import MetricsCB, TraceCB, ValidateCB

TRAIN = (torch.ones(1, 1), torch.ones(1, 1))
VALID = (torch.zeros(1, 1), torch.full((1, 1), 7.0))


def learner(*cbs: Callback, n_valid: int = 2) -> TrainLearner:
    """Five batches of train."""
    dls = DataLoaders([TRAIN] * 5, [VALID] * n_valid)
    return TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)


@pytest.mark.parametrize(
    ("every_n_epochs", "every_n_batches", "expected"),
    [
        (1, None, [(0, 5), (1, 5), (2, 5)]),
        (2, None, [(1, 5)]),
        (3, None, [(2, 5)]),
        (4, None, []),
        (1, 2, [(0, 2), (0, 4), (1, 2), (1, 4), (2, 2), (2, 4)]),
        (2, 5, [(1, 5)]),
        (1, 6, []),
        # The batches of all epochs are counted together.
        (None, 7, [(1, 2), (2, 4)]),
        (None, 10, [(1, 5)]),
        (None, None, [(0, 5), (1, 5), (2, 5)]),
        (None, 16, []),
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
    def run(*cbs: Callback) -> tuple[list[torch.Tensor], list[dict[str, float]]]:
        torch.manual_seed(1)
        learn = learner(*cbs, metrics := MetricsCB())
        learn.fit(2, valid=False)
        return list(learn.model.parameters()), metrics.history

    weights, history = run()
    validated, with_valid = run(ValidateCB(every_n_batches=2))
    assert all(map(torch.equal, weights, validated))
    assert [row["train/loss"] for row in with_valid] == [row["train/loss"] for row in history]
    assert all("val/loss" in row for row in with_valid)


class Here(Callback):
    """Writes down where the Learner is after a batch of train."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def after_batch(self, learn: Learner) -> None:
        """Everything that those who come after validation can see."""
        if learn.training:
            where = (learn.num, learn.n_batches, learn.dl is learn.dls.train, learn.stage)
            xb, yb = learn.batch
            at = (learn.preds.item(), learn.loss.item(), xb.item(), yb.item())
            self.seen.append((*where, *at, learn.model.training, torch.is_grad_enabled()))


def test_those_who_come_after_it_see_the_batch_of_train() -> None:
    before, after = Here(), Here()
    learner(before, ValidateCB(every_n_batches=1), after).fit(1, valid=False)
    assert len(before.seen) == 5
    assert after.seen == before.seen


class Ends(Callback):
    """Ends the fit in a validation, and looks where it cleans up."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.cleaned: list[str] = []

    def after_loss(self, learn: Learner) -> None:
        """Raise."""
        if not learn.training:
            raise self.error

    def cleanup_epoch(self, learn: Learner) -> None:
        """Once for valid, once for train."""
        self.cleaned.append(f"{learn.stage} {learn.model.training}")


@pytest.mark.parametrize("error", [CancelFitException(), ValueError("in valid")])
def test_train_is_cleaned_up_as_train_when_validation_ends_the_fit(error: Exception) -> None:
    learn = learner(ValidateCB(), ends := Ends(error))
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="in valid"):
            learn.fit(2, valid=False)
    else:
        learn.fit(2, valid=False)
    assert ends.cleaned == ["val False", "train True"]
