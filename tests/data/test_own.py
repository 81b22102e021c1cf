"""Anybody's data module: batches that depend on (seed, epoch) alone, and what it must have."""

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from tests.own_data import (
    Augmented,
    Memory,
    Moves,
    NoLength,
    NoSpec,
    NoTrain,
    Several,
    Stream,
    rows,
)
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.own import OwnData, as_data
from twinloop.data.resumable import Resumable
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError


def images_of(loader: Resumable, epoch: int) -> list[Tensor]:
    loader.set_epoch(epoch)
    return [images for images, _ in loader]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def drawn() -> list[object]:
    """The states of the three global generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


def test_sizes_and_batches_are_those_of_the_loaders() -> None:
    data = OwnData(Memory())
    assert data.sizes == {"train": 50, "val": 20, "test": 16}
    assert data.batches() == {"train": 7, "val": 3, "test": 2}
    assert [len(data.train_dataloader()), len(data.val_dataloader())] == [7, 3]
    assert data.spec == DataSpec("memory", "1", (1, 8, 8), ("even", "odd"))
    assert str(data) == "OwnData(Memory)"


def test_a_stream_states_its_sizes_and_may_have_no_test() -> None:
    data = OwnData(Stream())
    assert data.sizes == {"train": 50, "val": 20, "test": 0}
    assert data.batches() == {"train": 7, "val": 3, "test": 0}
    assert list(data.test_dataloader()) == []
    assert sum(len(batch["label"]) for batch in data.train_dataloader()) == 50


def test_the_batches_of_an_epoch_depend_on_seed_and_epoch_alone() -> None:
    one, other, seeded = (OwnData(Augmented(), seed) for seed in (1, 1, 2))
    before = images_of(one.train_dataloader(), 3)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = drawn()
    loader = other.train_dataloader()
    images_of(loader, 0)
    assert same(images_of(loader, 3), before)
    assert not same(images_of(loader, 4), before)
    assert not same(images_of(seeded.train_dataloader(), 3), before)
    assert drawn() == state
    offsets = [data.module.offset for data in (one, other, seeded)]  # type: ignore[attr-defined]
    assert offsets[0] == offsets[1] == offsets[2]  # of setup, which may split the data


def test_an_epoch_is_resumed_after_any_batch() -> None:
    whole = images_of(OwnData(Augmented()).train_dataloader(), 2)
    for position in (1, 6):
        stopped, resumed = OwnData(Augmented()), OwnData(Augmented())
        loader = stopped.train_dataloader()
        loader.set_epoch(2)
        for _, _batch in zip(range(position), loader, strict=False):
            pass
        resumed.load_state_dict(stopped.state_dict())
        assert same(images_of(resumed.train_dataloader(), 2), whole[position:])
        assert same(images_of(resumed.train_dataloader(), 2), whole)


def test_an_order_that_cannot_be_repeated_is_not_resumed_inside_an_epoch() -> None:
    stopped, resumed = OwnData(Augmented(entropy=True)), OwnData(Augmented(entropy=True))
    next(iter(stopped.train_dataloader()))
    resumed.load_state_dict(stopped.state_dict())
    with pytest.raises(UserError, match="Augmented cannot be resumed inside epoch 1, since its"):
        next(iter(resumed.train_dataloader()))
    list(loader := stopped.train_dataloader())  # to the end of the epoch
    assert "digest" not in loader.state_dict()


def test_val_and_overfitted_batches_are_the_same_in_every_epoch() -> None:
    data = OwnData(Augmented())
    val = data.val_dataloader()
    assert same(images_of(val, 0), images_of(val, 5))
    data.trainer = type("Overfits", (), {"overfit_batches": 2})()
    train = data.train_dataloader()
    assert same(images_of(train, 0), images_of(train, 5))


def test_a_stream_that_ends_early_is_refused() -> None:
    loader = OwnData(Stream(said=64)).train_dataloader()
    with pytest.raises(UserError, match=r"of Stream ended after 7 batches of 8; state its true si"):
        list(loader)


def test_examples_are_the_first_rows_of_val_without_augmentation() -> None:
    images, labels = OwnData(Memory()).examples(3)
    assert torch.equal(images, rows("val")[0][:3])
    assert torch.equal(labels, rows("val")[1][:3])
    data = OwnData(Augmented())
    state = torch.get_rng_state()
    images, _ = data.examples(3)
    assert torch.equal(images, next(iter(data.val_dataloader()))[0][:3])
    assert torch.equal(state, torch.get_rng_state())


WRONG = {
    NoSpec: "data: NoSpec has no spec; set spec = DataSpec(",
    NoTrain: "data: NoTrain has no train_dataloader; let it return a DataLoader",
    NoLength: "data: NoLength has a train_dataloader without a length; state the number of rows:",
    Several: "data: Several returns several loaders from train_dataloader; return one",
    Moves: "data: Moves overrides transfer_batch_to_device, which neither loop calls",
}


@pytest.mark.parametrize(("kind", "message"), WRONG.items())
def test_what_a_data_module_lacks_is_named(kind: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        OwnData(kind()).batches()


@pytest.mark.parametrize("shape", [(8, 8), (1, 0, 8), (1.0, 8, 8), (1, 10**5, 10**5)])
def test_an_invalid_spec_is_refused(shape: Any) -> None:
    module = Memory()
    module.setup = lambda _: None  # type: ignore[method-assign,assignment]
    module.spec = DataSpec("wrong", "1", shape)
    with pytest.raises(UserError, match=r"data: Memory has DataSpec\(name='wrong'"):
        OwnData(module)


def test_several_processes_are_refused() -> None:
    with pytest.raises(UserError, match="Memory is no ImageDataModule, which several processes"):
        OwnData(Memory()).batches(2)


def test_an_image_data_module_stays_unless_it_has_other_loaders() -> None:
    class Same(ImageDataModule):
        pass

    class Other(ImageDataModule):
        def train_dataloader(self) -> Any:
            return super().train_dataloader()

    same_one, other = Same("digits", batch_size=500), Other("digits", batch_size=500)
    assert as_data(same_one, 1) is same_one
    data = as_data(other, 1)
    assert isinstance(data, OwnData)
    assert data.batches() == {"train": 3, "val": 1, "test": 1}
    assert isinstance(other, LightningDataModule)
    for ours, theirs in zip(data.train_dataloader(), same_one.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])
