"""A loader is told which epoch it is, and none comes twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from twinloop.data.batches import Batches
from twinloop.data.cache import Split
from twinloop.learner import DataLoaders, Learner, SimpleLearner, TrainLearner
from twinloop.learner.callbacks import CheckpointCB, LRFinderCB, ResumeCB, ValidateCB, lr_find


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


def orders(n: int, *, first: int = 0) -> list[int]:
    """The rows of `n` epochs by their numbers, one after another."""
    train, found = loader(shuffle=True), []
    for epoch in range(first, first + n):
        train.set_epoch(epoch)
        found.append(torch.cat([labels for _, labels, _ in train]))
    assert len({tuple(order.tolist()) for order in found}) == n
    return torch.cat(found).tolist()


@pytest.mark.parametrize("inside", [False, True])
def test_each_epoch_has_the_order_of_its_number(inside: bool) -> None:
    model = Flat()
    cbs = [ValidateCB(every_n_batches=2)] if inside else []
    dls = DataLoaders(loader(shuffle=True), loader(shuffle=False))
    learn: Learner = First(model, dls, cbs=cbs)
    learn.fit(3, valid=not inside)
    assert model.seen == orders(3)


def test_a_second_fit_goes_on_with_new_orders() -> None:
    model = Flat()
    learn = First(model, DataLoaders(loader(shuffle=True), []))
    learn.fit(2)
    learn.fit(1)
    learn.fit(1)
    assert model.seen == orders(4)


def test_neither_a_search_nor_a_validation_uses_an_order_up() -> None:
    model = Flat()
    learn = First(model, DataLoaders(loader(shuffle=True), loader(shuffle=False)))
    learn.fit(1)
    lr_find(learn, n_epochs=3)
    learn.fit(1, cbs=[LRFinderCB()])
    del model.seen[10:]
    learn.fit(1)
    assert model.seen == orders(2)


def test_a_second_fit_is_resumed_with_its_orders(tmp_path: Path) -> None:
    def learner() -> tuple[Flat, Learner]:
        model = Flat()
        return model, First(model, DataLoaders(loader(shuffle=True), []))

    _, learn = learner()
    learn.fit(2)
    learn.fit(2, valid=False, cbs=[CheckpointCB(tmp_path, monitor=None)])
    model, learn = learner()
    learn.fit(3, cbs=[ResumeCB(torch.load(tmp_path / "last.ckpt"))])
    assert model.seen == orders(1, first=4)


def test_the_sampler_of_a_torch_loader_is_told_too() -> None:
    class Sampler(DistributedSampler[int]):
        told: ClassVar[list[int]] = []

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    data = TensorDataset(torch.ones(4, 1), torch.ones(4, 1))
    sampler = Sampler(data, num_replicas=2, rank=0)
    dls = DataLoaders(DataLoader(data, 2, sampler=sampler), [])
    TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss).fit(2, valid=False)
    assert sorted(set(Sampler.told)) == [0, 1]


def test_the_first_learner_has_a_new_order_in_each_epoch_of_each_fit() -> None:
    class Pairs:
        """The batches of a loader without their draws."""

        def __init__(self, batches: Batches) -> None:
            self.set_epoch, self.batches = batches.set_epoch, batches

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return ((x, torch.zeros(len(x))) for x, _, _ in self.batches)

    class Column(Flat):
        """Predicts one logit."""

        def forward(self, x: Tensor) -> Tensor:
            """`[B, 1, 1, 1] -> [B, 1]`."""
            return super().forward(x)[:, None]

    model = Column()
    dls = DataLoaders(Pairs(loader(shuffle=True)), Pairs(loader(shuffle=False)))
    learn = SimpleLearner(model, dls, lambda preds, _: preds.mean())
    learn.fit(2)
    learn.fit(1)
    assert model.seen == orders(3)
