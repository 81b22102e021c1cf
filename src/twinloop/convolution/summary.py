"""A model as one table: for each layer its sizes, its cost, and its receptive field."""

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
    """Trained values; of a shared module in its first row only."""
    multiply_adds: int
    """For one image, of convolutions and linear layers; all else costs far less."""
    field: ReceptiveField | None
    """None where arithmetic does not know it: behind a branch, or an unknown layer."""
    has_checkerboard: bool
    """A transposed convolution whose stride does not divide its kernel."""


def summarise(model: nn.Module, input_shape: Sequence[int]) -> list[Row]:
    """A row for every layer that runs on an image `[C, H, W]`, in the order they run.

    Raises:
        ValueError: the model does not take images of this shape.
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
            _multiply_adds(layer),
            _field(layers[: index + 1]),
            isinstance(layer.module, nn.ConvTranspose2d)
            and any(map(has_checkerboard, layer.module.kernel_size, layer.module.stride)),
        )
        for index, layer in enumerate(layers)
    ]


def table(rows: Sequence[Row], title: str) -> "Table":
    """The rows and their sums, for a console."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    parameters = sum(row.parameters for row in rows)
    multiply_adds = sum(row.multiply_adds for row in rows)
    result.add_column("layer", footer="sum", no_wrap=True)
    result.add_column("", no_wrap=True)
    for name, footer in {
        **{"in": "", "out": "", "parameters": f"{parameters:,}"},
        **{"multiply-\nadds": f"{multiply_adds:,}", "receptive\nfield": ""},
        **{"jump": "", "first\ncentre": ""},
    }.items():
        result.add_column(name, footer=footer, justify="right", no_wrap=True)
    for layer, own, cost, field, checkerboard in rows:
        result.add_row(
            layer.name,
            type(layer.module).__name__ + (" (checkerboard)" if checkerboard else ""),
            *(_by(layer.input_shape), _by(layer.output_shape), f"{own:,}", f"{cost:,}"),
            *((_by(field.size), _rows_columns(field.jump)) if field else "??"),
            _rows_columns(field.centre) if field else "?",
        )
    return result


def _multiply_adds(layer: Layer) -> int:
    """Half of what `torch.utils.flop_counter` counts, without importing torch's compiler.

    The kernels of one channel are applied to each input of a transposed convolution, and for each
    output of a convolution or linear layer.
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
    """One value where rows and columns agree."""
    return ", ".join(f"{float(value):g}" for value in dict.fromkeys(values))
