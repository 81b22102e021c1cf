"""A task creates its network by keyword, and a network that does not fit is told what fits."""

import re

import pytest
import torch
from torch import Tensor, nn

from twinloop.errors import UserError
from twinloop.models.contract import check_output, create


class Swapped(nn.Linear):
    """Takes its arguments in another order, which does not matter, and another one of its own."""

    def __init__(self, classes: int, image_shape: tuple[int, int, int], bias: bool = False) -> None:
        super().__init__(image_shape[2], classes, bias)


class Named(nn.Module):
    """Takes arguments of other names."""

    def __init__(self, in_channels: int, num_classes: int) -> None: ...


class Broken(nn.Module):
    """Has a fault of its own."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        raise TypeError("its own error")


def test_a_network_is_created_by_keyword() -> None:
    network = create(Swapped, image_shape=(1, 4, 5), classes=3)
    assert network.weight.shape == (3, 5)


def test_a_network_with_other_arguments_is_told_which_it_gets() -> None:
    message = (
        "model.network: Named.__init__() got an unexpected keyword argument 'image_shape'; a task "
        "creates its network by keyword, this one with image_shape=(1, 4, 5), classes=3: give its "
        "arguments these names, or name a function that has them"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        create(Named, image_shape=(1, 4, 5), classes=3)
    with pytest.raises(TypeError, match="its own error"):
        create(Broken, image_shape=(1, 4, 5), classes=3)


@pytest.mark.parametrize(
    ("output", "found"), [(torch.zeros(2, 1000), r"\(2, 1000\)"), ((torch.zeros(2, 3),), "tuple")]
)
def test_an_output_that_does_not_fit_is_refused(output: Tensor, found: str) -> None:
    check_output(torch.zeros(2, 3), (2, 3))
    message = rf"model.network: its output is {found}, and the task needs a tensor of \(2, 3\): "
    with pytest.raises(UserError, match=message):
        check_output(output, (2, 3))
