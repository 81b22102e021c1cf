"""Batches of any shape, moved whole. 'meta' stands for a device that a tensor must be moved to."""

from typing import Any, NamedTuple

import pytest
import torch

from tests.learner.learners import scalar, weights
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
        [torch.ones(2), (torch.ones(3), [torch.ones(1)])],
        {"image": torch.ones(2), "more": {"mask": (torch.ones(1), None)}},
        Pair(torch.ones(2), {"label": torch.ones(1)}),
        ("name", 3, None, 0.5, ()),
    ],
    ids=["nested", "dict", "named", "no tensor"],
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

    learn = scalar(DeviceCB(META), train=1)
    learn.loss_func = loss
    learn.fit(1)
    assert seen == [(META, META)] * 2
    assert {weight.device for weight in learn.model.parameters()} == {META}


@pytest.mark.gpu
def test_a_gpu_trains_to_the_same_weights() -> None:
    cpu, gpu = (scalar(DeviceCB(device)) for device in ("cpu", "cuda"))
    gpu.model.load_state_dict(cpu.model.state_dict())
    for learn in (cpu, gpu):
        learn.fit(2, valid=False)
    for one, other in zip(weights(cpu), weights(gpu), strict=True):
        assert other.is_cuda
        assert torch.allclose(one, other.cpu(), atol=1e-5)


def test_without_a_device_it_is_the_machines_accelerator() -> None:
    expected = torch.accelerator.current_accelerator(check_available=True)
    assert DeviceCB().device == (expected or torch.device("cpu"))
