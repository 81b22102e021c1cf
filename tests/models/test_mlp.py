"""The multi-layer perceptron: sizes, parameters, and its arithmetic."""

import pytest
import torch

from twinloop.models import MLP


@pytest.mark.parametrize(
    ("shape", "classes", "hidden", "parameters"),
    [
        ((1, 28, 28), 10, 50, 784 * 50 + 50 + 50 * 10 + 10),
        ((3, 2, 2), 2, 1, 12 + 1 + 2 + 2),
    ],
)
def test_parameters_and_logits(
    shape: tuple[int, int, int], classes: int, hidden: int, parameters: int
) -> None:
    network = MLP(shape, classes, hidden)
    assert network(torch.zeros(2, *shape)).shape == (2, classes)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


def test_one_hidden_layer_with_a_rectifier() -> None:
    network = MLP((1, 1, 2), 2, hidden=2)
    for weight, values in zip(
        network.parameters(),
        ([[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.5], [[1.0, 2.0], [3.0, 4.0]], [0.0, 10.0]),
        strict=True,
    ):
        weight.data = torch.tensor(values)
    # Pixels 3 and 1 give 2 and -2 + 0.5, the second rectified to 0: 1 * 2 and 3 * 2 + 10.
    assert network(torch.tensor([[[[3.0, 1.0]]]])).tolist() == [[2.0, 16.0]]
