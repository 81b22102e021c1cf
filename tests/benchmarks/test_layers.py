"""The time of a step by layer."""

import pytest
import torch
from torch import nn

from benchmarks import layers, report
from twinloop.convolution.chain import layers_of


def test_the_operations_of_a_layer_are_those_of_three_convolutions() -> None:
    """Forward, the gradient of the input, and that of the weights."""
    (layer,) = layers_of(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)), (3, 8, 8))
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    seconds, operations = layers.cost(layer, x, rounds=1)
    assert operations == 3 * 2 * (2 * 8 * 8) * 5 * (3 * 9)
    assert seconds > 0
    assert layers.cost(layer, x.detach(), rounds=1)[1] == operations * 2 // 3


@pytest.mark.slow
def test_every_layer_has_a_row_and_each_network_a_sum() -> None:
    rows = layers.measure("digits", torch.device("cpu"), rounds=1)
    kinds = [row["kind"] for row in rows if row["experiment"] == "autoencoder"]
    assert kinds[:4] == ["ZeroPad2d", "Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds[-1] == "Sigmoid"
    short = [
        {"experiment": "one", "layer": "0", "kind": "Conv2d", "seconds": 3e-3, "of_peak": 0.5},
        {"experiment": "one", "layer": "1", "kind": "ReLU", "seconds": 1e-3, "of_peak": 0.0},
    ]
    assert report.FORMS["layers"](short).splitlines()[2:] == [
        "| one | 0 | Conv2d | 3.00 | 75% | 50% |",
        "| one | 1 | ReLU | 1.00 | 25% | 0% |",
        "| one | sum |  | 4.00 | 100% | 38% |",
    ]
