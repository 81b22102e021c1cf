"""Batches of any shape, moved whole. 'meta' stands for a device that a tensor must be moved to."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from twinloop.learner import DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import DeviceCB
from twinloop.learner.callbacks.device import to_device

META = torch.device("meta")


class Pair(NamedTuple):
    """A batch with names."""

    xb: Any
    yb: Any


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2),
        (torch.ones(2), torch.ones(3)),
        [torch.ones(2), (torch.ones(3), [torch.ones(1)])],
        {"image": torch.ones(2), "more": {"mask": (torch.ones(1), None)}},
        Pair(torch.ones(2), {"label": torch.ones(1)}),
        ("name", 3, None, 0.5),
        (),
    ],
    ids=["tensor", "pair", "nested", "dict", "named", "no tensor", "nothing"],
)
def test_every_tensor_is_moved_and_the_rest_is_as_it_was(batch: Any) -> None:
    assert_moved(to_device(batch, META), batch)


def assert_moved(moved: Any, batch: Any) -> None:
    assert type(moved) is type(batch)
    if isinstance(batch, torch.Tensor):
        assert (moved.device, moved.shape, moved.dtype) == (META, batch.shape, batch.dtype)
    elif isinstance(batch, dict):
        assert moved.keys() == batch.keys()
        for key, value in batch.items():
            assert_moved(moved[key], value)
    elif isinstance(batch, list | tuple):
        assert len(moved) == len(batch)
        for one, other in zip(moved, batch, strict=True):
            assert_moved(one, other)
    else:
        assert moved == batch


def test_model_and_batches_meet_on_the_device() -> None:
    seen = []

    def loss(preds: torch.Tensor, yb: torch.Tensor) -> torch.Tensor:
        seen.append((preds.device, yb.device))
        return preds.sum()

    batch = (torch.ones(1, 1), torch.ones(1))
    learn = TrainLearner(nn.Linear(1, 1), DataLoaders([batch], [batch]), loss, cbs=[DeviceCB(META)])
    learn.fit(1)
    assert seen == [(META, META)] * 2
    assert {weight.device for weight in learn.model.parameters()} == {META}
    assert batch[0].device.type == "cpu"


def test_a_name_is_a_device() -> None:
    assert DeviceCB("cpu").device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="device"):
        DeviceCB("abacus")


@pytest.mark.gpu
def test_a_gpu_trains_to_the_same_weights() -> None:
    def train(device: str) -> Learner:
        torch.manual_seed(0)
        batch = (torch.randn(8, 4), torch.randint(3, (8,)))
        cbs = [DeviceCB(device)]
        learn = TrainLearner(nn.Linear(4, 3), DataLoaders([batch] * 3, []), cbs=cbs)
        learn.fit(2, valid=False)
        return learn

    cpu, gpu = train("cpu"), train("cuda")
    for one, other in zip(cpu.model.parameters(), gpu.model.parameters(), strict=True):
        assert other.is_cuda
        assert torch.allclose(one, other.cpu(), atol=1e-5)
