"""What a task asks of a network: the arguments that create it, and the shape of its output."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from twinloop.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


class MakesClassifier(Protocol):
    """A class of networks `[B, C, H, W] -> [B, classes]`, or a function that returns one."""

    def __call__(self, *, image_shape: tuple[int, int, int], classes: int) -> nn.Module: ...


def create(network: Callable[..., Network], **facts: Any) -> Network:
    """Create a `network` from `facts`, by keyword.

    Raises:
        UserError: it takes arguments of other names.
    """
    try:
        return network(**facts)
    except TypeError as error:
        if not any(f"unexpected keyword argument '{name}'" in str(error) for name in facts):
            raise
        given = ", ".join(f"{name}={value}" for name, value in facts.items())
        raise UserError(
            f"model.network: {error}; a task creates its network by keyword, this one with "
            f"{given}: give its arguments these names, or name a function that has them"
        ) from error


def check_output(output: object, shape: tuple[int, ...]) -> None:
    """Make sure that the output of a network has the shape that the task needs.

    Raises:
        UserError: it has another one, or is no tensor.
    """
    if not isinstance(output, Tensor) or output.shape != shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"model.network: its output is {found}, and the task needs a tensor of {shape}: a "
            "value for each class, or an image for each image"
        )
