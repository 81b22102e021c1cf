"""The moving average of the weights."""

import contextlib

import pytest
import torch
from torch import Tensor, nn

from tests.learner.learners import Raises
from twinloop.learner import (
    Callback,
    CancelEpochException,
    CancelFitException,
    DataLoaders,
    Learner,
    TrainLearner,
)
from twinloop.learner.callbacks import AccumulateCB, AverageCB, ValidateCB

ONE = (torch.ones(1, 1), torch.zeros(1))
WEIGHTS = [-1.0, -2.0, -3.0, -4.0]  # after each step: the loss is the prediction, the rate 1
MEANS = [-1.0, -1.5, -2.25, -3.125]  # half of the mean and half of the weight; first a copy


class Watch(Callback):
    """Writes down the weight that each batch is predicted with."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def after_predict(self, learn: Learner) -> None:
        (self.train if learn.training else self.val).append(learn.preds.item())


def learner(*cbs: Callback, n: int = 2) -> TrainLearner:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    dls = DataLoaders([ONE] * n, [ONE])
    return TrainLearner(model, dls, lambda preds, _: preds.sum(), 1.0, cbs)


def weight(learn: Learner) -> float:
    return next(learn.model.parameters()).item()


@pytest.mark.parametrize("inside", [False, True], ids=["after the epoch", "inside the epoch"])
def test_valid_and_the_end_have_the_average_and_train_has_the_weights(inside: bool) -> None:
    cbs = [ValidateCB(every_n_batches=1)] if inside else []
    learn = learner(AverageCB(0.5), watch := Watch(), *cbs)
    learn.fit(2, valid=not inside)
    assert watch.train == [0, *WEIGHTS[:3]]
    assert watch.val == (MEANS if inside else MEANS[1::2])
    assert weight(learn) == MEANS[3]


def test_a_step_is_averaged_and_not_a_batch() -> None:
    learn = learner(AverageCB(0.5), AccumulateCB(2), n=4)
    learn.fit(1, valid=False)
    assert weight(learn) == MEANS[1]


def test_the_average_may_be_any_function() -> None:
    def mean(average: Tensor, weight: Tensor, n: int) -> Tensor:
        return average + (weight - average) / (n + 1)

    learn = learner(AverageCB(mean), n=4)
    learn.fit(1)
    assert weight(learn) == sum(WEIGHTS) / 4


@pytest.mark.parametrize(
    ("use_buffers", "mean", "tracked"),
    [(True, 3, 1), (False, 4, 2)],  # an average of 1.5 batches is 1 in whole numbers
)
def test_buffers_are_averaged_or_copied(use_buffers: bool, mean: int, tracked: int) -> None:
    model = nn.BatchNorm1d(1, momentum=1.0)  # running_mean is the mean of the last batch
    batches = [(torch.tensor([[m - 1.0], [m + 1.0]]), torch.zeros(1)) for m in (2.0, 4.0)]
    cbs = [AverageCB(0.5, use_buffers=use_buffers)]
    TrainLearner(model, DataLoaders(batches, []), lambda p, _: p.sum(), cbs=cbs).fit(1)
    buffers = model.state_dict()
    assert buffers["running_mean"].item() == mean
    assert buffers["num_batches_tracked"].item() == tracked


@pytest.mark.parametrize("inside", [False, True], ids=["after the epoch", "inside the epoch"])
def test_it_is_asked_after_each_step_and_each_epoch(inside: bool) -> None:
    asked = []

    def never(step: int | None, epoch: int | None) -> bool:
        asked.append((step, epoch))
        return False

    cbs = [ValidateCB(every_n_batches=1)] if inside else []
    learn = learner(AverageCB(0.5, should_update=never), watch := Watch(), *cbs)
    learn.fit(2, valid=not inside)
    once = list(dict.fromkeys(asked))  # a step that was not taken in is asked about again
    assert once == [(0, None), (1, None), (None, 0), (2, None), (3, None), (None, 1)]
    assert watch.train == [0, *WEIGHTS[:3]]
    assert {weight(learn), *watch.val} == {0}  # a copy of the weights before the first step


def test_only_epochs_are_averaged() -> None:
    average = AverageCB(0.5, should_update=lambda _, epoch: epoch is not None)
    learn = learner(average, watch := Watch())
    learn.fit(2)
    assert watch.val == [0, WEIGHTS[1]]
    assert weight(learn) == (WEIGHTS[1] + WEIGHTS[3]) / 2


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("event", "error", "order"),
    [
        ("before_epoch", ValueError(), AverageCB.order - 1),
        ("before_epoch", CancelFitException(), AverageCB.order + 1),
        ("after_predict", ValueError(), 0),
    ],
)
def test_the_weights_are_the_models_own_again_however_valid_ends(
    event: str, error: Exception, order: int, inside: bool
) -> None:
    ends = Raises(event, error, lambda learn: not learn.training, order)
    learn = learner(average := AverageCB(0.5), ends, *([ValidateCB()] if inside else []))
    with contextlib.suppress(ValueError):
        learn.fit(2, valid=not inside)
    assert weight(learn) == WEIGHTS[1]
    assert next(average.average.parameters()).item() == MEANS[1]


@pytest.mark.parametrize("order", [AverageCB.order - 1, AverageCB.order + 1])
def test_train_continues_with_the_weights_after_a_cancelled_validation(order: int) -> None:
    no_valid = CancelEpochException()
    cancel = Raises("before_epoch", no_valid, lambda learn: not learn.training, order)
    learn = learner(cancel, AverageCB(0.5), watch := Watch())
    learn.fit(2)
    assert watch.train == [0, *WEIGHTS[:3]]
    assert weight(learn) == MEANS[3]


def test_an_average_is_resumed() -> None:
    first = AverageCB(0.5)
    learner(first).fit(1)
    learn = learner(second := AverageCB(0.5))
    learn.opt = torch.optim.SGD(learn.model.parameters(), 1.0)
    second.before_fit(learn)
    second.load_state_dict(first.state_dict())
    assert second.seen == 2
    nn.init.constant_(next(learn.model.parameters()), WEIGHTS[2])
    learn.steps = 3
    second.after_batch(learn)
    second.after_fit(learn)
    assert weight(learn) == MEANS[2]


def test_the_average_of_few_bits_has_more() -> None:
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = AverageCB(0.999)
    average.before_fit(TrainLearner(model, DataLoaders([], [])))
    assert {p.dtype for p in average.average.parameters()} == {torch.float32}
