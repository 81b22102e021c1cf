"""The layers of a model in the order they run.

They are recorded by hooks during a forward pass, with the actual order and shapes, and whether the
input of a layer is the output of the one before it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """One call of a module that has no children."""

    name: str
    """As in `model.get_submodule`."""
    module: nn.Module
    input_shape: tuple[int, ...]
    """Without the batch: `(C, H, W)`, or `(N,)` after flattening."""
    output_shape: tuple[int, ...]
    fed_by_previous: bool
    """Whether its input is the output of the previous layer; for the first, the model's input."""


def layers_of(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Run `model` on one image of zeros `[1, *input_shape]`, and list the layers that ran.

    The model is run in evaluation mode and left unchanged. A module that is called twice is listed
    twice, and one that is not called is not listed.

    Raises:
        ValueError: the model does not accept images of this shape.
    """
    found: list[Layer] = []
    weight = next(model.parameters(), torch.empty(0))
    image = last = torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device)

    def record(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal last
        shapes = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
        found.append(Layer(name, module, *shapes, inputs[0] is last))
        last = output

    handles = [
        module.register_forward_hook(partial(record, name))
        for name, module in model.named_modules()
        # An empty Sequential, as in the shortcut of a residual block, is not a layer.
        if not list(module.children()) and not isinstance(module, nn.Sequential)
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    except RuntimeError as error:
        raise ValueError(
            f"input_shape={tuple(input_shape)} does not suit the model: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def output_of(model: nn.Module, images: Tensor, layer: str | None = None) -> Tensor:
    """The output of `layer`, by default of the model, for `[B, C, H, W]` in evaluation mode.

    Raises:
        ValueError: the model does not have this layer, or it did not run.
    """
    outputs: list[Tensor] = []
    try:
        module = model if layer is None else model.get_submodule(layer)
    except AttributeError as error:
        raise ValueError(f"the model has no layer={layer!r}") from error
    # A copy, because a following in-place layer may overwrite it.
    handle = module.register_forward_hook(lambda *call: outputs.append(call[2].clone()))
    try:
        with evaluating(model):
            model(images)
    finally:
        handle.remove()
    if not outputs:
        raise ValueError(f"layer={layer!r} did not run")
    return outputs[-1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode, and restore the mode of every module afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
