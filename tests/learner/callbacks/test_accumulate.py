"""Several batches to a step."""

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.learner.learners import Raises
from twinloop.learner import CancelEpochException, DataLoaders, TrainLearner
from twinloop.learner.callbacks import AccumulateCB, LimitBatchesCB, MetricsCB

LR = 0.1


def batches(n: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(4, 3, generator=draw).double(), torch.randn(4, 2, generator=draw).double())
        for _ in range(n)
    ]


def network() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2).double()


@pytest.mark.parametrize(
    ("n", "windows"),
    [(1, [[0], [1], [2], [3], [4]]), (2, [[0, 1], [2, 3], [4]]), (7, [[0, 1, 2, 3, 4]])],
)
def test_a_window_is_one_big_batch_and_the_last_one_is_divided_by_n_too(
    n: int, windows: list[list[int]]
) -> None:
    data, model, reference = batches(5), network(), network()
    learn = TrainLearner(model, DataLoaders(data, []), F.mse_loss, LR, [AccumulateCB(n)])
    learn.fit(2, valid=False)

    for window in [*windows, *windows]:
        xb, yb = (torch.cat([data[number][part] for number in window]) for part in (0, 1))
        # The mean over the rows of the window is that over its batches, as they are of one size.
        loss = F.mse_loss(reference(xb), yb) * len(window) / n
        weights = list(reference.parameters())
        with torch.no_grad():
            for w, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                w.sub_(LR * gradient)
    assert learn.steps == 2 * len(windows)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)
        assert ours.grad is None


def test_metrics_see_the_undivided_loss_and_valid_is_not_divided() -> None:
    data = batches(4)
    cbs = [AccumulateCB(4), metrics := MetricsCB()]
    learn = TrainLearner(network(), DataLoaders(data, data[:1]), F.mse_loss, 0.0, cbs)
    learn.fit(1)
    losses = torch.stack([F.mse_loss(learn.model(xb), yb) for xb, yb in data])
    (row,) = metrics.history
    assert row["train/loss"] == pytest.approx(losses.mean().item(), rel=1e-12)
    assert row["val/loss"] == learn.loss.item() == losses[0].item()


def test_the_last_batch_of_a_limited_epoch_ends_its_window() -> None:
    cbs = [AccumulateCB(2), LimitBatchesCB(train=3)]
    learn = TrainLearner(network(), DataLoaders(batches(5), []), F.mse_loss, LR, cbs)
    learn.fit(1, valid=False)
    assert learn.steps == 2


@pytest.mark.parametrize("error", [CancelEpochException(), KeyboardInterrupt()])
def test_a_window_that_was_left_is_not_added_to_the_next_epochs(error: BaseException) -> None:
    data = batches(3)
    stop = Raises("after_batch", error, lambda learn: learn.epoch == 0 and learn.num == 0)
    weights = []
    for cbs in ([stop], []):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        learn = TrainLearner(model, DataLoaders(data, []), F.mse_loss, LR, [AccumulateCB(2), *cbs])
        with contextlib.suppress(KeyboardInterrupt):
            learn.fit(1)
        if cbs:
            learn.cbs = [AccumulateCB(2)]
            learn.fit(1)
        weights.append(model.weight)
    assert torch.equal(*weights)
