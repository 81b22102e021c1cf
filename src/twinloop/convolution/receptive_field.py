"""The input pixels that an activation depends on, by arithmetic along a chain of layers.

Convolution, pooling, upsampling and padding treat rows and columns separately, so one axis at a
time is traced back from an activation to its pixels. All pixels are kept, not only the first and
the last, because a dilated kernel leaves gaps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from twinloop.convolution.chain import Layer, layers_of
from twinloop.convolution.im2col import pair

POINTWISE = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
)
"""Layers whose outputs depend on the input at the same position only."""
WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.ConvTranspose2d)
SHRINKING = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
"""Layers whose outputs depend on equal, disjoint parts, if the sizes divide evenly."""
GROWING = (nn.Unflatten, nn.Upsample, nn.PixelShuffle)
"""Layers that make equally many pixels of each, if the sizes divide evenly."""


@dataclass(frozen=True)
class Step:
    """One layer along one axis: a sliding window, or with `transposed` its transpose."""

    inputs: int
    """Pixels of the input; positions outside are padding."""
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    """Before the first pixel; negative for a crop."""
    dilation: int = 1
    transposed: bool = False

    def sources(self, output: int) -> list[int]:
        """The inputs of one output, including those in the padding."""
        if not self.transposed:
            start = output * self.stride - self.padding
            return [start + k * self.dilation for k in range(self.kernel)]
        reached = [output + self.padding - k * self.dilation for k in range(self.kernel)]
        return [position // self.stride for position in reached if position % self.stride == 0]


class ReceptiveField(NamedTuple):
    """The receptive field of a layer on an infinite image, as (rows, columns)."""

    size: tuple[int, int]
    """Pixels from edge to edge; the largest, if they differ because of upsampling."""
    jump: tuple[Fraction, Fraction]
    """Pixels between the fields of neighbouring activations."""
    centre: tuple[Fraction, Fraction]
    """The centre of the first activation's field, in pixels; negative in the padding."""


def field_of(layers: Sequence[Layer]) -> ReceptiveField:
    """The receptive field of the last of `layers`, a chain that begins at the input.

    The recursion of Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural
    Networks" (https://distill.pub/2019/computing-receptive-fields), with upsampling added. After a
    layer that mixes all positions it is the whole image, with jump 0.

    Raises:
        ValueError: an unsupported layer, or one that is not fed by the layer before it.
    """
    axes = [_along(_steps(layers, axis)) for axis in (0, 1)]
    if any(
        isinstance(layer.module, nn.Flatten) and spatial_size(layer.input_shape) != (1, 1)
        for layer in layers
    ):
        whole = spatial_size(layers[0].input_shape)
        axes = [(pixels, Fraction(0), Fraction(pixels - 1, 2)) for pixels in whole]
    (height, down, top), (width, across, left) = axes
    return ReceptiveField((height, width), (down, across), (top, left))


def by_arithmetic(
    model: nn.Module,
    input_shape: Sequence[int],
    layer: str | None = None,
    position: tuple[int, int] = (0, 0),
) -> Tensor:
    """The pixels that one activation depends on, as bool `[H, W]`.

    `layer` is a name as in `model.get_submodule`, by default of the last layer; `position` is
    (row, column) in its output, and (0, 0) for an output without rows and columns.

    Raises:
        ValueError: a layer that did not run, a position outside of its output, an unsupported
            layer, or one that is not fed by the layer before it.
    """
    layers = layers_of(model, input_shape)
    if layer is not None:
        names = [found.name for found in layers]
        if layer not in names:
            raise ValueError(f"layer={layer!r} did not run; those that did: {', '.join(names)}")
        layers = layers[: len(names) - names[::-1].index(layer)]
    check_position(position, layers[-1].output_shape)
    masks = []
    for axis in (0, 1):
        steps = _steps(layers, axis)
        masks.append(torch.zeros(steps[0].inputs, dtype=torch.bool))
        masks[axis][sorted(_trace(steps, position[axis], padded=False))] = True
    return masks[0][:, None] & masks[1]


def spatial_size(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of `(C, H, W)`; (1, 1) for a vector."""
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)


def check_position(position: tuple[int, int], output_shape: Sequence[int]) -> None:
    """Raise ValueError if (row, column) is outside of an output `(C, H, W)`."""
    rows, columns = spatial_size(output_shape)
    if not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(f"position={position} is outside of an output of {rows}x{columns}")


def _steps(layers: Sequence[Layer], axis: int) -> list[Step]:
    """All layers along rows (axis 0) or columns (axis 1)."""
    for layer in layers:
        if not layer.fed_by_previous:
            raise ValueError(
                f"{layer.name} is not fed by the layer before it, so arithmetic cannot trace it; "
                "use by_gradient"
            )
    return [_step(layer, axis) for layer in layers]


def _step(layer: Layer, axis: int) -> Step:
    module: Any = layer.module
    size, result = (spatial_size(s)[axis] for s in (layer.input_shape, layer.output_shape))
    known = (
        {len(layer.input_shape), len(layer.output_shape)} <= {1, 3}
        and not (isinstance(module, nn.Linear) and len(layer.input_shape) == 3)
        and not (isinstance(module, nn.Upsample) and not module.mode.startswith("nearest"))
    )
    if known and isinstance(module, POINTWISE):
        return Step(size)
    if known and isinstance(module, WINDOWED):
        return _window(layer, axis, size)
    if known and isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d):
        return Step(size, padding=module.padding[0 if axis else 2])  # left, right, top, bottom
    if known and isinstance(module, SHRINKING) and size % result == 0:
        return Step(size, size // result, size // result)
    if known and isinstance(module, GROWING) and result % size == 0:
        return Step(size, result // size, result // size, transposed=True)
    raise ValueError(
        f"{layer.name} is {module} from {layer.input_shape} to {layer.output_shape}, which the "
        "arithmetic does not know; use by_gradient"
    )


def _window(layer: Layer, axis: int, size: int) -> Step:
    module: Any = layer.module
    if getattr(module, "padding_mode", "zeros") != "zeros":
        raise ValueError(
            f"{layer.name} has padding_mode={module.padding_mode!r}, which reads pixels twice; "
            "the arithmetic knows 'zeros', by_gradient any"
        )
    kernel, stride, dilation = (
        pair(getattr(module, name, 1))[axis] for name in ("kernel_size", "stride", "dilation")
    )
    if module.padding == "same":
        padding = dilation * (kernel - 1) // 2  # an odd number of zeros has one more at the end
    else:
        padding = 0 if module.padding == "valid" else pair(module.padding)[axis]
    return Step(size, kernel, stride, padding, dilation, isinstance(module, nn.ConvTranspose2d))


def _trace(steps: Sequence[Step], output: int, *, padded: bool) -> set[int]:
    """The input positions of one output, with or without those in the padding."""
    positions = {output}
    for step in reversed(steps):
        sources = {source for position in positions for source in step.sources(position)}
        positions = {source for source in sources if padded or 0 <= source < step.inputs}
    return positions


def _along(steps: Sequence[Step]) -> tuple[int, Fraction, Fraction]:
    """Size, jump and first centre along an infinite axis."""
    # With upsampling the fields of neighbours differ, with this period.
    period = math.prod(step.stride for step in steps if step.transposed)
    fields = [field for i in range(period) if (field := _trace(steps, i, padded=True))]
    strides = math.prod(step.stride for step in steps if not step.transposed)
    size = max(max(field) - min(field) + 1 for field in fields)
    return size, Fraction(strides, period), Fraction(min(fields[0]) + max(fields[0]), 2)
