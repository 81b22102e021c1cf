"""Layers are listed as they run, from the real modules."""

import pytest
import torch
from torch import Tensor, nn

from twinloop.convolution.chain import evaluating, layers_of


class Branches(nn.Module):
    """A convolution twice over, added to what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.act(self.conv(self.conv(x)))
        return out


def test_layers_are_listed_in_the_order_in_which_they_run() -> None:
    layers = layers_of(nn.Sequential(nn.Sequential(), Branches(), nn.Flatten()), (2, 5, 4))
    assert [(layer.name, layer.fed_by_previous) for layer in layers] == [
        ("1.conv", True),
        ("1.conv", True),
        ("1.act", True),
        ("2", False),  # fed by the sum
    ]
    assert (layers[-1].input_shape, layers[-1].output_shape) == ((2, 5, 4), (40,))


def test_listing_layers_leaves_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).double()
    model[1].eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    layers_of(model, (1, 6, 6))
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks for module in model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_an_image_of_another_shape_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"input_shape=\(3, 6, 6\) does not suit the model"):
        layers_of(model, (3, 6, 6))
    assert not model[0]._forward_hooks


def test_training_modes_are_restored_after_an_error() -> None:
    def fail(_: nn.Module) -> None:
        raise KeyError

    model = nn.Dropout()
    with pytest.raises(KeyError), evaluating(model):
        fail(model)
    assert model.training
