"""A model as one table: what each layer makes of what, at what cost, and what it sees."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from twinloop.convolution.arithmetic import draws_checkerboard
from twinloop.convolution.chain import Layer, layers_of
from twinloop.convolution.receptive_field import Field, field_of

if TYPE_CHECKING:
    from rich.table import Table


class Row(NamedTuple):
    """One layer."""

    layer: Layer
    parameters: int
    """Numbers that are trained; counted where a shared module runs first."""
    multiply_adds: int
    """For one picture, of convolutions and linear layers; all else costs far less."""
    field: Field | None
    """None where it cannot be worked out by arithmetic: behind a branch, or an unknown layer."""
    draws_checkerboard: bool
    """A transposed convolution whose stride does not divide its kernel."""


def summarise(model: nn.Module, input_shape: Sequence[int]) -> list[Row]:
    """A row for every layer that runs on a picture `[C, H, W]`, in the order they run.

    Raises:
        ValueError: the model does not take pictures of this shape.
    """
    layers = layers_of(model, input_shape)
    seen: set[nn.Module] = set()
    rows = []
    for index, layer in enumerate(layers):
        own = () if layer.module in seen else layer.module.parameters(recurse=False)
        seen.add(layer.module)
        rows.append(
            Row(
                layer,
                sum(weight.numel() for weight in own),
                _multiply_adds(layer),
                _field(layers[: index + 1]),
                isinstance(layer.module, nn.ConvTranspose2d)
                and any(map(draws_checkerboard, layer.module.kernel_size, layer.module.stride)),
            )
        )
    return rows


def table(rows: Sequence[Row], title: str) -> "Table":
    """The rows, and their sums, for a console."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    parameters = sum(row.parameters for row in rows)
    multiply_adds = sum(row.multiply_adds for row in rows)
    drawn.add_column("layer", footer="sum", no_wrap=True)
    drawn.add_column("", no_wrap=True)
    for name, footer in (
        ("in", ""),
        ("out", ""),
        ("parameters", f"{parameters:,}"),
        ("multiply-\nadds", f"{multiply_adds:,}"),
        ("receptive\nfield", ""),
        ("jump", ""),
        ("first\ncentre", ""),
    ):
        drawn.add_column(name, footer=footer, justify="right", no_wrap=True)
    for row in rows:
        layer, field = row.layer, row.field
        drawn.add_row(
            layer.name,
            type(layer.module).__name__ + (" (checkerboard)" if row.draws_checkerboard else ""),
            _by(layer.input_shape),
            _by(layer.output_shape),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            _by(field.size) if field else "?",
            _one_or_two(field.jump) if field else "?",
            _one_or_two(field.centre) if field else "?",
        )
    return drawn


def _multiply_adds(layer: Layer) -> int:
    """Every number of a kernel once for each place where it is put down."""
    module = layer.module
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return math.prod(layer.output_shape) * module.weight[0].numel()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return math.prod(layer.input_shape) * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return math.prod(layer.output_shape) * module.in_features
    return 0


def _field(layers: Sequence[Layer]) -> Field | None:
    try:
        return field_of(layers)
    except ValueError:
        return None


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _one_or_two(numbers: tuple[Fraction, Fraction]) -> str:
    """One number where rows and columns agree."""
    return ", ".join(f"{float(number):g}" for number in dict.fromkeys(numbers))
