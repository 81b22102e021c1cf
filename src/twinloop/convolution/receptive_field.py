"""Which input pixels an activation depends on: by arithmetic, by gradient, and how strongly.

Rows and columns never mix in a convolution, a pool, an upsampling or a pad, so the arithmetic
follows one axis at a time, backwards from an activation to the pixels it was made from. It keeps
every pixel and not only the first and last: a dilated kernel reads a comb.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.convolution.chain import Layer, layers_of, output_of

POINTWISE = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
)
"""Layers whose every output is made from the input at its own place."""
SHRINKING = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
GROWING = (nn.Unflatten, nn.Upsample)
CANCELLING = (
    *(nn.Softmax, nn.LogSoftmax, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d),
    nn.MultiheadAttention,
)
"""Layers that take away a mean, so that equal weights give a gradient of 0 where there is one."""


@dataclass(frozen=True)
class Step:
    """One layer along one axis: a window that moves, or with `transposed` its opposite."""

    inputs: int
    """Pixels that there are; what lies outside is padding, and depends on nothing."""
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    """Before the first pixel; negative where a crop takes some away."""
    dilation: int = 1
    transposed: bool = False

    def sources(self, output: int) -> list[int]:
        """The inputs of one output, those in the padding included."""
        if not self.transposed:
            start = output * self.stride - self.padding
            return [start + k * self.dilation for k in range(self.kernel)]
        reached = [output + self.padding - k * self.dilation for k in range(self.kernel)]
        return [place // self.stride for place in reached if place % self.stride == 0]


class Field(NamedTuple):
    """The receptive field of a layer on an endless picture; rows first, then columns."""

    size: tuple[int, int]
    """Pixels from edge to edge; the largest, where an upsampling makes them differ."""
    jump: tuple[Fraction, Fraction]
    """Pixels from the field of one activation to that of the next."""
    centre: tuple[Fraction, Fraction]
    """Of the first activation's field, in pixels from the first one; padding is negative."""


def field_of(layers: Sequence[Layer]) -> Field:
    """The receptive field at the end of `layers`, a chain from the input on.

    The recursion of Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural
    Networks" (https://distill.pub/2019/computing-receptive-fields), with upsampling added. Behind
    a layer that mixes all places it is the whole picture, which does not move: jump 0.

    Raises:
        ValueError: a layer that the arithmetic does not know, or that is not fed by the one before.
    """
    paths = _paths(layers)
    if any(
        isinstance(layer.module, nn.Flatten) and math.prod(_size(layer)) > 1 for layer in layers
    ):
        height, width = _size(layers[0])
        centre = Fraction(height - 1, 2), Fraction(width - 1, 2)
        return Field((height, width), (Fraction(0), Fraction(0)), centre)
    (rows, down, top), (columns, across, left) = (_along(path) for path in paths)
    return Field((rows, columns), (down, across), (top, left))


def by_arithmetic(
    model: nn.Module,
    input_shape: Sequence[int],
    layer: str | None = None,
    position: tuple[int, int] = (0, 0),
) -> Tensor:
    """Pixels that one activation is made from, as bool `[H, W]`, by following its layers back.

    `layer` is a name as in `model.get_submodule`, unset the last that ran; `position` is (row,
    column) in its output, and (0, 0) where that has neither.

    Raises:
        ValueError: a layer that did not run, that the arithmetic does not know or that is not fed
            by the one before it, or a position outside of its output.
    """
    path = _path_to(layers_of(model, input_shape), layer)
    _check_position(position, path[-1].output_shape)
    seen = []
    for place, steps in zip(position, _paths(path), strict=True):
        places = {place}
        for step in reversed(steps):
            sources = {source for output in places for source in step.sources(output)}
            places = {source for source in sources if 0 <= source < step.inputs}
        axis = torch.zeros(steps[0].inputs, dtype=torch.bool)
        axis[sorted(places)] = True
        seen.append(axis)
    return seen[0][:, None] & seen[1]


def by_gradient(
    model: nn.Module,
    input_shape: Sequence[int],
    layer: str | None = None,
    position: tuple[int, int] = (0, 0),
) -> Tensor:
    """Pixels that move one activation, as bool `[H, W]`, for any model, branches included.

    The gradient of a copy in float64 whose weights all have one positive value: nothing cancels,
    no ReLU is shut, batch norms stand still, and max pools, which would pass the gradient of one
    pixel only, are means; one that is called as a function cannot be replaced. `layer` is a name
    as in `by_arithmetic`, unset the model's own output; `position` is as there.

    Raises:
        ValueError: a layer that did not run, a position outside of its output, or a layer that
            takes a mean away (softmax, layer, group and instance norm, attention).
    """
    for name, module in model.named_modules():
        if isinstance(module, CANCELLING):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}, whose gradients cancel; "
                "leave it out"
            )
    twin = _with_open_gradients(model)
    picture = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
    activation = output_of(twin, picture, layer)
    _check_position(position, tuple(activation.shape[1:]))
    chosen = activation[..., *position] if activation.ndim == 4 else activation
    gradient = torch.autograd.grad(chosen.sum(), picture, allow_unused=True)[0]
    if gradient is None:
        return torch.zeros(*input_shape[1:], dtype=torch.bool)
    return gradient[0].any(0)


def effective(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    position: tuple[int, int] | None = None,
) -> Tensor:
    """How strongly each pixel moves one activation: `[B, C, H, W] -> [H, W]`, largest 1.

    The effective receptive field of Luo et al. 2016 (arXiv:1701.04128): the size of the gradient,
    averaged over pictures and over the channels of both ends. `layer` is as in `by_gradient`;
    `position` is in the middle if unset.

    Raises:
        ValueError: a layer that did not run, or a position outside of its output.
    """
    pictures = images.detach().clone().requires_grad_()
    activation = output_of(model, pictures, layer)
    rows, columns = _places(tuple(activation.shape[1:]))
    position = position or (rows // 2, columns // 2)
    _check_position(position, tuple(activation.shape[1:]))
    channels = (activation[..., *position] if activation.ndim == 4 else activation).sum(0)
    sizes = torch.zeros_like(pictures[0, 0])
    for channel in channels:
        (gradient,) = torch.autograd.grad(channel, pictures, retain_graph=True)
        sizes += gradient.abs().mean((0, 1))
    largest = sizes.max()
    return sizes / largest if largest > 0 else sizes


def _steps(layer: Layer) -> tuple[Step, Step]:
    """A layer along rows and along columns."""
    module, size, made = layer.module, _size(layer), _places(layer.output_shape)
    shapes = layer.input_shape, layer.output_shape
    known = all(len(shape) in (1, 3) for shape in shapes) and not (
        isinstance(module, nn.Linear) and len(layer.input_shape) == 3
    )
    if known and isinstance(module, POINTWISE):
        return Step(size[0]), Step(size[1])
    if known and isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.ConvTranspose2d):
        return _window(layer, 0), _window(layer, 1)
    if known and isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d):
        left, _, top, _ = module.padding
        return Step(size[0], padding=top), Step(size[1], padding=left)
    # What divides a picture into equal parts, and what repeats each pixel equally often.
    shrinks = all(i % o == 0 for i, o in zip(size, made, strict=True))
    grows = all(o % i == 0 for i, o in zip(size, made, strict=True))
    if known and shrinks and isinstance(module, SHRINKING):
        rows, columns = (Step(i, i // o, i // o) for i, o in zip(size, made, strict=True))
        return rows, columns
    nearest = not isinstance(module, nn.Upsample) or module.mode.startswith("nearest")
    if known and grows and nearest and isinstance(module, GROWING):
        rows, columns = (
            Step(i, o // i, o // i, transposed=True) for i, o in zip(size, made, strict=True)
        )
        return rows, columns
    raise ValueError(
        f"{layer.name} is {module} from {shapes[0]} to {shapes[1]}, which the arithmetic does not "
        "know; use by_gradient"
    )


def _window(layer: Layer, axis: int) -> Step:
    """A conv or pool along one axis."""
    module = layer.module
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise ValueError(
            f"{layer.name} has padding_mode={module.padding_mode!r}, which reads pixels twice; "
            "the arithmetic knows 'zeros', by_gradient any"
        )

    def number(name: str) -> int:
        value: int | tuple[int, int] = getattr(module, name, 1)
        return value if isinstance(value, int) else value[axis]

    kernel, stride, dilation = number("kernel_size"), number("stride"), number("dilation")
    if module.padding == "same":
        padding = dilation * (kernel - 1) // 2  # an even kernel's odd zero goes behind
    elif module.padding == "valid":
        padding = 0
    else:
        padding = number("padding")
    transposed = isinstance(module, nn.ConvTranspose2d)
    return Step(_size(layer)[axis], kernel, stride, padding, dilation, transposed)


def _paths(layers: Sequence[Layer]) -> tuple[list[Step], list[Step]]:
    """All layers along rows, and all along columns."""
    for layer in layers:
        if not layer.fed_by_previous:
            raise ValueError(
                f"{layer.name} is not fed by the layer before it, so arithmetic cannot follow it; "
                "use by_gradient"
            )
    steps = [_steps(layer) for layer in layers]
    return [rows for rows, _ in steps], [columns for _, columns in steps]


def _along(steps: Sequence[Step]) -> tuple[int, Fraction, Fraction]:
    """Size, jump and first centre along one axis, on a line that never ends."""
    # Where something was upsampled, fields differ, and repeat after as many activations.
    period = math.prod(step.stride for step in steps if step.transposed)
    fields = []
    for output in range(period):
        places = {output}
        for step in reversed(steps):
            places = {source for place in places for source in step.sources(place)}
        if places:
            fields.append((min(places), max(places)))
    strides = math.prod(step.stride for step in steps if not step.transposed)
    size = max(last - first + 1 for first, last in fields)
    return size, Fraction(strides, period), Fraction(sum(fields[0]), 2)


def _with_open_gradients(model: nn.Module) -> nn.Module:
    """A copy of `model` in which whatever can pass a gradient does."""
    twin = copy.deepcopy(model).double().cpu()
    for module in list(twin.modules()):
        for name, child in module.named_children():
            setattr(module, name, _without_max(child))
    twin = _without_max(twin)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            # One value whose sum over a whole kernel is at most 1, so that nothing saturates.
            parameter.fill_(0 if name.endswith("bias") else 1 / parameter.numel())
        for name, buffer in twin.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.fill_(name.endswith("running_var"))
    return twin


def _without_max(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.MaxPool2d):
        return _MeanPool(module)
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return nn.AdaptiveAvgPool2d(module.output_size)
    return module


class _MeanPool(nn.Module):
    """A max pool's windows, dilation and overhang included, that passes the gradient of all."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pool = self.pool
        size, stride, padding, dilation = (
            (value, value) if isinstance(value, int) else value
            for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        rows, columns = pool(x).shape[2:]
        # With ceil_mode the last windows hang over the edge: zeros below and to the right.
        below = max(0, (rows - 1) * stride[0] + dilation[0] * (size[0] - 1) + 1 - x.shape[2])
        right = max(0, (columns - 1) * stride[1] + dilation[1] * (size[1] - 1) + 1 - x.shape[3])
        padded = F.pad(x, (padding[1], right, padding[0], below))
        kernel = x.new_full((x.shape[1], 1, *size), 1 / math.prod(size))
        summed = F.conv2d(padded, kernel, stride=stride, dilation=dilation, groups=x.shape[1])
        return summed[:, :, :rows, :columns]


def _path_to(layers: list[Layer], layer: str | None) -> list[Layer]:
    if layer is None:
        return layers
    names = [one.name for one in layers]
    if layer not in names:
        raise ValueError(f"layer={layer!r} did not run; those that did: {', '.join(names)}")
    return layers[: len(names) - names[::-1].index(layer)]


def _check_position(position: tuple[int, int], output_shape: tuple[int, ...]) -> None:
    rows, columns = _places(output_shape)
    if not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(f"position={position} is outside of an output of {rows}x{columns}")


def _size(layer: Layer) -> tuple[int, int]:
    return _places(layer.input_shape)


def _places(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of `(C, H, W)`; numbers in a row have one place together."""
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
