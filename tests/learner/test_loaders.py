"""What the loaders give, in a Learner and in a loop by hand."""

from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.data.augment import Augmentation
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import DataLoaders, Learner, SimpleLearner, TrainLearner, collate_dict
from twinloop.learner.callbacks import TrainCB


def orders(dls: DataLoaders, passes: int) -> list[Tensor]:
    return [torch.cat([xb for xb, _ in dls.train]) for _ in range(passes)]


def test_a_data_module_gives_floats_and_labels_in_a_new_order_in_each_pass() -> None:
    data = ImageDataModule("digits", batch_size=100)
    dls = DataLoaders.from_data(data)
    xb, yb = next(iter(dls.valid))
    assert (xb.dtype, yb.dtype) == (torch.float32, torch.int64)
    assert 0 <= xb.min() < xb.max() <= 1
    assert len(dls.train) == len(list(dls.train))
    one, other, third = orders(dls, 3)
    assert not torch.equal(one, other)
    assert not torch.equal(other, third)
    assert torch.equal(one.sum(0).round(), other.sum(0).round())
    assert torch.equal(*orders(DataLoaders(dls.valid, []), 2))


def test_two_fits_of_a_learner_see_what_a_loop_by_hand_sees() -> None:
    def loaders() -> DataLoaders:
        augmentation = Augmentation(flip=True)
        return DataLoaders.from_data(
            ImageDataModule("digits", batch_size=400, augmentation=augmentation)
        )

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            """`[B, 1, 8, 8] -> [B, 10]`."""
            if self.training:
                self.seen.append(x)
            return x.flatten(1)[:, :10] * self.weight

    by_hand = torch.cat(orders(loaders(), 3))
    for kind in (TrainLearner, SimpleLearner):
        learn = kind(model := Sum(), loaders())
        learn.fit(2)
        learn.fit(1)
        assert torch.equal(torch.cat(model.seen), by_hand)


def test_an_autoencoders_target_is_its_input() -> None:
    data = ImageDataModule("digits", batch_size=100)
    for xb, target in DataLoaders.from_data(data, autoencoder=True).train:
        assert target is xb


@pytest.mark.parametrize("kind", ["datasets", "plain"])
def test_a_dict_data_set_gives_its_columns(kind: str) -> None:
    rows: Any = [{"image": [float(n), 1.0], "label": n % 3} for n in range(8)]
    if kind == "datasets":
        rows = datasets.Dataset.from_list(rows).with_format("torch")
    dls = DataLoaders.from_dd({"train": rows, "test": rows}, 4)
    assert (len(dls.train), len(dls.valid)) == (2, 1)
    _, yb = next(iter(dls.valid))
    assert yb.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [len(part) for part in collate_dict(rows)([rows[0], rows[1]])] == [2, 2]


def test_a_pair_of_loaders_is_enough_and_anything_else_is_an_error() -> None:
    batches = [(torch.ones(2, 1), torch.ones(2, 1))]
    named = SimpleNamespace(train=batches, valid=[])
    accepted: list[Any] = [named, (batches, []), [batches, []]]
    for dls in accepted:
        learn = TrainLearner(nn.Linear(1, 1), dls, F.mse_loss)
        learn.fit(1)
        assert learn.steps == 1
    with pytest.raises(TypeError, match=r"dls is list; it must be DataLoaders\(train, valid\), or"):
        TrainLearner(nn.Linear(1, 1), batches, F.mse_loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [TrainLearner, SimpleLearner])
@pytest.mark.parametrize("layer", [nn.Linear(8, 10), nn.Conv2d(1, 10, 8)])
def test_bytes_are_an_error_that_says_how_to_make_floats(kind: Any, layer: nn.Module) -> None:
    data = ImageDataModule("digits", batch_size=100)
    dls = DataLoaders(data.train_dataloader(), data.val_dataloader())
    message = r"^the batch is bytes \(uint8\), .* DataLoaders\.from_data gives floats in \[0, 1\]"
    with pytest.raises(TypeError, match=message):
        kind(layer, dls).fit(1)
    if kind is TrainLearner:
        with pytest.raises(TypeError, match=message):
            Learner(layer, dls, cbs=TrainCB()).fit(1)


def test_a_model_that_takes_bytes_gets_them_and_its_own_errors_stay() -> None:
    class Takes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            """`[B, 2] -> [B, 3]`, bytes to logits."""
            return super().forward(x.float())

    batches = [(torch.ones(4, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))]
    learn = TrainLearner(Takes(2, 3), DataLoaders(batches, []))
    learn.fit(1)
    assert learn.steps == 1
    learn.model = Takes(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        learn.fit(1)


def test_a_data_module_is_set_up_without_a_trainer() -> None:
    data = ImageDataModule("digits")
    data.prepare_data()
    data.setup("fit")
    assert data.device == torch.device("cpu")
