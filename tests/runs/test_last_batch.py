"""A last batch of one image is tried before the first step, and nothing of that is left."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP, BottleneckAutoencoder, SequentialClassifier
from twinloop.runs.last_batch import check_last_batch
from twinloop.tasks import Classification, Reconstruction, Task

ROWS = 1372
"""Images of digits that are trained on."""


def classifier(data: ImageDataModule, network: Callable[..., nn.Module] | None = None) -> Task:
    """Batch norms of single pixels, where no other network is given."""

    def narrow(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return SequentialClassifier(image_shape, classes, widths=(4, 4, 4, 4, 4))

    return Classification(network or narrow, lambda weights: SGD(weights, 0.1), data.spec)


def autoencoder(data: ImageDataModule) -> Task:
    return Reconstruction(
        lambda image_shape: BottleneckAutoencoder(image_shape, 2, widths=(4, 4)),
        lambda weights: SGD(weights, 0.1),
        data.spec,
        noise=0.5,
    )


def of(batch_size: int) -> ImageDataModule:
    data = ImageDataModule("digits", batch_size=batch_size)
    assert len(data.rows["train"]) == ROWS
    return data


@pytest.mark.parametrize("make", [classifier, autoencoder])
def test_a_last_batch_of_one_image_is_refused_and_nothing_changes(
    make: Callable[[ImageDataModule], Task],
) -> None:
    data = of(ROWS - 1)
    task = make(data).train()
    network, state = task.network, torch.get_rng_state()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    message = (
        "data.batch_size is 1371: the last batch of an epoch, number 2, has 1 image, and the "
        "network cannot train on one (ValueError: Expected more than 1 value per channel when "
        "training, got input size "
    )
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_last_batch(task, data)
    assert str(caught.value).endswith("); set data.batch_size to 1370")
    assert "\n" not in str(caught.value)
    assert task.network is network
    assert torch.equal(torch.get_rng_state(), state)
    assert task.state_dict().keys() == before.keys()
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (1, {"limit": 2}, "is 1: a batch has 1 image, .*; set data.batch_size to 2$"),
        (685, {"processes": 2}, "number 2, has 1 image.*batch_size to 684$"),  # 686 for each
    ],
)
def test_other_batches_of_one_image_are_refused(
    batch_size: int, options: dict[str, Any], message: str
) -> None:
    data = of(batch_size)
    with pytest.raises(UserError, match=message):
        check_last_batch(classifier(data), data, **options)


@pytest.mark.parametrize(
    ("batch_size", "options"),
    [
        (ROWS, {}),  # one batch of all
        (ROWS - 2, {}),  # two images are left
        (ROWS - 1, {"limit": 1}),  # the last batch is never reached
        (ROWS - 1, {"limit": 0.9}),
        (ROWS - 1, {"max_batches": 1}),
        (ROWS - 1, {"processes": 2}),  # each has 686, fewer than a batch
    ],
)
def test_other_batch_sizes_are_not_tried(batch_size: int, options: dict[str, Any]) -> None:
    def network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        mlp = MLP(image_shape, classes)
        mlp.register_forward_hook(lambda *_: pytest.fail("was tried"))
        return mlp

    data = of(batch_size)
    check_last_batch(classifier(data, network), data, **options)


def test_a_network_that_trains_on_one_image_or_on_none_is_left_to_training() -> None:
    class Fails(MLP):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("always")

    data = of(ROWS - 1)
    for network in (MLP, Fails):
        check_last_batch(classifier(data, network), data)
