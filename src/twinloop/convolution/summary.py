"""A model as a table: sizes, cost and receptive field of every layer."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd

from twinloop.convolution.arithmetic import has_checkerboard
from twinloop.convolution.chain import Layer, layers_of
from twinloop.convolution.receptive_field import ReceptiveField, field_of

if TYPE_CHECKING:
    from rich.table import Table


class Row(NamedTuple):
    """One layer."""

    layer: Layer
    parameters: int
    """Trainable values; of a shared module in its first row only."""
    multiply_adds: int
    """For one image, of convolutions and linear layers; the cost of others is negligible."""
    field: ReceptiveField | None
    """None if it is unknown: after a branch or an unsupported layer."""
    has_checkerboard: bool
    """Whether it is a transposed convolution whose stride does not divide its kernel."""


def summarise(model: nn.Module, input_shape: Sequence[int]) -> list[Row]:
    """A row for every layer that runs on an image `[C, H, W]`, in the order they run.

    Raises:
        ValueError: the model does not accept images of this shape.
    """
    layers = layers_of(model, input_shape)
    modules = [layer.module for layer in layers]
    return [
        Row(
            layer,
            sum(
                weight.numel()
                for weight in layer.module.parameters(recurse=False)
                if layer.module not in modules[:index]
            ),
            multiply_adds(layer),
            _field(layers[: index + 1]),
            isinstance(layer.module, nn.ConvTranspose2d)
            and any(map(has_checkerboard, layer.module.kernel_size, layer.module.stride)),
        )
        for index, layer in enumerate(layers)
    ]


def table(rows: Sequence[Row], title: str) -> "Table":
    """The rows and their sums as a table for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    result.add_column("layer", footer="sum", no_wrap=True)
    result.add_column("", no_wrap=True)
    sums = {
        "parameters": f"{sum(row.parameters for row in rows):,}",
        "multiply-\nadds": f"{sum(row.multiply_adds for row in rows):,}",
    }
    for name in ("in", "out", *sums, "receptive\nfield", "jump", "first\ncentre"):
        result.add_column(name, footer=sums.get(name, ""), justify="right", no_wrap=True)
    for layer, parameters, multiply_adds, field, checkerboard in rows:
        kind = type(layer.module).__name__ + (" (checkerboard)" if checkerboard else "")
        sizes = _by(layer.input_shape), _by(layer.output_shape)
        costs = f"{parameters:,}", f"{multiply_adds:,}"
        receptive = [_by(field.size), *map(_rows_columns, field[1:])] if field else "???"
        result.add_row(layer.name, kind, *sizes, *costs, *receptive)
    return result


def multiply_adds(layer: Layer) -> int:
    """Half of the FLOPs of `torch.utils.flop_counter`, without importing torch's compiler.

    The kernels of one channel are applied once per output of a convolution or linear layer, and
    once per input of a transposed convolution.
    """
    module = layer.module
    if not isinstance(module, _ConvNd | nn.Linear):
        return 0
    transposed = isinstance(module, _ConvNd) and module.transposed
    places = layer.input_shape if transposed else layer.output_shape
    return math.prod(places) * module.weight[0].numel()


def _field(layers: Sequence[Layer]) -> ReceptiveField | None:
    try:
        return field_of(layers)
    except ValueError:
        return None


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _rows_columns(values: tuple[Fraction, Fraction]) -> str:
    """Rows and columns, or one value if they are equal."""
    return ", ".join(f"{float(value):g}" for value in dict.fromkeys(values))
