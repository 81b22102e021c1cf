"""A loader is told which epoch it is."""

import pytest
import torch
from torch import Tensor, nn

from twinloop.data.batches import Batches
from twinloop.data.cache import Split
from twinloop.learner import DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import ShuffleCB, ValidateCB


class Flat(nn.Module):
    """Predicts by the first pixel, and writes down which that was."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, 1, 1] -> [B]`."""
        if self.training:
            self.seen += x.flatten().tolist()
        return self.weight * x.flatten()


class First(TrainLearner):
    """Predicts and compares by the first two parts of a batch of three."""

    def get_loss(self) -> None:
        """The mean of the predictions."""
        self.loss = self.preds.mean()


def loader(*, shuffle: bool) -> Batches:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    return Batches(Split(images, torch.arange(10)), torch.arange(10), 4, shuffle=shuffle)


@pytest.mark.parametrize("inside", [False, True])
def test_each_epoch_has_the_order_of_its_number(inside: bool) -> None:
    train = loader(shuffle=True)
    model = Flat()
    cbs = [ShuffleCB(), *([ValidateCB(every_n_batches=2)] if inside else [])]
    learn: Learner = First(model, DataLoaders(train, loader(shuffle=False)), cbs=cbs)
    learn.fit(3, valid=not inside)

    expected = []
    for epoch in range(3):
        train.set_epoch(epoch)
        expected.append(torch.cat([labels for _, labels, _ in train]))
    assert len({tuple(order.tolist()) for order in expected}) == 3
    assert model.seen == torch.cat(expected).tolist()


def test_without_it_every_epoch_has_the_same_order() -> None:
    model = Flat()
    First(model, DataLoaders(loader(shuffle=True), [])).fit(2)
    assert model.seen[:10] == model.seen[10:]
    assert sorted(model.seen[:10]) == list(range(10))
