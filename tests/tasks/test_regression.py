"""Numbers from images: loss, metrics, and targets of another number of values."""

import pytest
import torch
from torch.optim import SGD

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Regression

SPEC = DataSpec("boxes", "", (1, 2, 2))


def task(outputs: int) -> Regression:
    return Regression(MLP, lambda weights: SGD(weights, 0.1), SPEC, outputs=outputs)


def test_the_loss_is_the_mean_square_and_the_metrics_are_those_of_all_numbers() -> None:
    regression = task(2)
    output, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 4.0], [3.0, 1.0]])
    assert regression.loss(output, target) == (4 + 9) / 4
    regression.count("val", output, target, torch.tensor(0.0))
    found = regression.compute("val")
    assert found == {"val/loss": 0.0, "val/mse": 13 / 4, "val/mae": 5 / 4}


def test_one_number_may_have_no_dimension_of_its_own() -> None:
    images = torch.zeros(3, 1, 2, 2)
    inputs, target = task(1).inputs_and_targets((images, torch.tensor([1, 2, 3])))
    assert inputs is images
    assert torch.equal(target, torch.tensor([[1.0], [2.0], [3.0]]))


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(UserError, match=r"gives \[4, 1\] and .* set model.outputs to 3"):
        task(1).loss(torch.zeros(4, 1), torch.zeros(4, 3))
