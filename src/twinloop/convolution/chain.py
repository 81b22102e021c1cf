"""The layers of a model in the order they run, from the modules themselves.

A forward pass with a hook on every layer sees what no list kept beside the model can miss: the
real order, the real shapes, and whether a layer was fed by the one before it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """One call of a module that has none inside."""

    name: str
    """Where the model keeps it, as in `model.get_submodule`."""
    module: nn.Module
    input_shape: tuple[int, ...]
    """Without the batch: `(C, H, W)`, or `(N,)` after flattening."""
    output_shape: tuple[int, ...]
    fed_by_previous: bool
    """Is its input what the layer before it, or for the first the model, was given?"""


def layers_of(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Run `model` on one picture of zeros `[1, *input_shape]`, and list the layers that ran.

    In evaluation mode and without gradients; afterwards the model is as it was. A module that is
    called twice is listed twice, and one that the forward pass leaves out is not.

    Raises:
        ValueError: the model does not take pictures of this shape.
    """
    found: list[Layer] = []
    picture = _picture(model, input_shape)
    last: Tensor = picture

    def note(name: str, module: nn.Module, given: Any, made: Tensor) -> None:
        nonlocal last
        shapes = tuple(given[0].shape[1:]), tuple(made.shape[1:])
        found.append(Layer(name, module, *shapes, given[0] is last))
        last = made

    def hook(name: str) -> Any:
        return lambda module, given, made: note(name, module, given, made)

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        # An empty Sequential, as in some short cuts, hands on what it is given.
        if not list(module.children()) and not isinstance(module, nn.Sequential)
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(picture)
    except RuntimeError as error:
        raise ValueError(
            f"input_shape={tuple(input_shape)} does not suit the model: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def output_of(model: nn.Module, pictures: Tensor, layer: str | None = None) -> Tensor:
    """What `layer`, unset the last, makes of `[B, C, H, W]` in evaluation mode, by a hook.

    Raises:
        ValueError: a layer that the model does not have, or that did not run.
    """
    with evaluating(model):
        if layer is None:
            output: Tensor = model(pictures)
            return output
        try:
            module = model.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(f"layer={layer!r} is none of this model") from error
        kept: list[Tensor] = []
        # A copy: an in-place layer behind it may write over it.
        handle = module.register_forward_hook(lambda *call: kept.append(call[2].clone()))
        try:
            model(pictures)
        finally:
            handle.remove()
    if not kept:
        raise ValueError(f"layer={layer!r} did not run")
    return kept[-1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode, and every module back into its own afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _picture(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    weight = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device)
