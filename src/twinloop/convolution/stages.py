"""A plain CNN as a list of stages (a convolution with or without a ReLU), for workbook and page."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twinloop.convolution.chain import evaluating, layers_of
from twinloop.convolution.im2col import pair


class Stage(NamedTuple):
    """A convolution, the ReLU after it if there is one, and the activations for one image."""

    name: str
    """`conv1`, `conv2` and so on."""
    layer: str
    """The name of its last module, as in `model.get_submodule`."""
    weight: Tensor
    """`[O, C, kh, kw]`."""
    bias: Tensor
    """`[O]`."""
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Zeros at both ends, as (rows, columns)."""
    relu: bool
    activations: Tensor
    """`[O, H', W']`, after the ReLU."""


def stages_of(model: nn.Module, image: Tensor) -> list[Stage]:
    """The stages of `model` for one image `[C, H, W]`, in float64 on the CPU.

    Raises:
        ValueError: the model is not a chain of convolutions (without dilation and groups, padded
            by zeros), ReLUs and a last flattening, or its output is not one value per class.
    """
    if image.ndim != 3:
        raise ValueError(f"the image has shape {tuple(image.shape)}; it must be one [C, H, W]")
    x = image.detach().double().cpu()[None]
    stages: list[Stage] = []
    with torch.no_grad(), evaluating(model):
        for layer in layers_of(model, image.shape):
            module = layer.module
            if not layer.fed_by_previous:
                raise ValueError(f"{layer.name} is not fed by the layer before it")
            if isinstance(module, nn.Conv2d) and _is_plain(module):
                weight = module.weight.detach().double().cpu()
                bias = weight.new_zeros(len(weight))
                if module.bias is not None:
                    bias = module.bias.detach().double().cpu()
                stride, padding = pair(module.stride), pair(module.padding)  # type: ignore[arg-type]
                x = nn.functional.conv2d(x, weight, bias, stride, padding)
                name = f"conv{len(stages) + 1}"
                stages.append(Stage(name, layer.name, weight, bias, stride, padding, False, x[0]))
            elif isinstance(module, nn.ReLU) and stages:
                x = x.relu()
                stages[-1] = stages[-1]._replace(layer=layer.name, relu=True, activations=x[0])
            elif not isinstance(module, nn.Flatten | nn.Dropout | nn.Identity):
                raise ValueError(
                    f"{layer.name} is {module}; only plain Conv2d and ReLU layers are supported"
                )
    if not stages or x.shape[2:] != (1, 1):
        raise ValueError(
            f"the model ends in {tuple(x.shape[1:])}; it must end in one value per class, 1x1"
        )
    return stages


def check_class_names(class_names: Sequence[str], last: Stage) -> None:
    """Raise ValueError unless there is one name for each output of the last stage."""
    if len(class_names) != len(last.bias):
        raise ValueError(
            f"{len(class_names)} class names for {len(last.bias)} outputs; there must be one per "
            "output"
        )


def _is_plain(module: nn.Conv2d) -> bool:
    return (
        module.groups == 1
        and module.padding_mode == "zeros"
        and set(module.dilation) == {1}
        and not isinstance(module.padding, str)
    )
