"""A trained CNN as a spreadsheet: pixels and kernels are values, everything else is a formula.

One sheet per layer, as the lesson shows it in Excel. A changed pixel or kernel updates everything
computed from it; "trace precedents" on an activation goes back through its receptive field.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xlsxwriter
from torch import Tensor, nn
from xlsxwriter.utility import xl_rowcol_to_cell

from twinloop.convolution.stages import Stage, check_class_names, stages_of
from twinloop.files import atomic_write

Cell = tuple[int, int]
"""Row and column, counted from 0."""
Colours = dict[str, Any]
"""A conditional format."""
Formula = Callable[[int, int], str] | None
"""The formula of a row and column of a map."""

TITLE_ROWS = 3
"""Rows above the first map: title, note, empty row."""
RED, WHITE, BLUE = "#D6453D", "#FFFFFF", "#3D6FD6"
BRIGHTNESS = {
    "type": "2_color_scale",
    **{"min_type": "num", "max_type": "num", "min_value": 0, "max_value": 1},
    **{"min_color": WHITE, "max_color": "#808590"},
}
"""From white to a grey on which black text is readable."""


def write(path: Path, model: nn.Module, image: Tensor, class_names: Sequence[str]) -> None:
    """Write a workbook that computes `model` for one image `[C, H, W]`.

    Sheets: `image`, one per convolution and its ReLU, and `classes` with the softmax. Each map is
    surrounded by the zeros that pad it for the next layer. The formulas use names such as
    `conv2_kernel_3_1` (weights of filter 3 for input map 1) and `conv2_bias_3`. Results are stored
    with the formulas, for programs that do not compute them.

    Raises:
        ValueError: see `stages_of` and `check_class_names`.
    """
    stages = stages_of(model, image)
    check_class_names(class_names, stages[-1])
    with atomic_write(path) as part, xlsxwriter.Workbook(str(part)) as book:
        writer = _Writer(book)
        maps = writer.image(image.detach().double().cpu(), stages[0].padding)
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            padding = following.padding if following else (0, 0)
            maps = writer.stage(stage, maps, padding)
        writer.classes(stages[-1], maps, class_names)


class _Map(NamedTuple):
    """The position of a map on its sheet, and the zeros around it."""

    sheet: str
    top: int
    """The row of the first zeros above it; they begin in column 0."""
    padding: tuple[int, int]

    def window(self, row: int, column: int, height: int, width: int) -> str:
        """The range under a kernel, counted from the first zero of padding."""
        first = xl_rowcol_to_cell(self.top + row, column)
        last = xl_rowcol_to_cell(self.top + row + height - 1, column + width - 1)
        return f"{self.sheet}!{first}:{last}"


class _Writer:
    """Writes sheet after sheet, each with formulas on the one before."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.title = book.add_format({"bold": True, "font_size": 14})
        self.note = book.add_format({"font_color": "#5B6472"})
        self.label = book.add_format({"bold": True, "align": "left"})
        self.zero = book.add_format(
            {"font_color": "#A0A6B0", "bg_color": "#EEF0F3", "num_format": "0", "align": "center"}
        )
        cell = {"num_format": "0.00", "font_size": 8, "align": "center"}
        self.number = book.add_format(cell)
        self.editable = book.add_format(cell | {"border": 1, "border_color": "#C9CED8"})
        self.fine = book.add_format({"num_format": "0.0000"})
        self.share = book.add_format({"num_format": "0.0%"})

    def image(self, image: Tensor, padding: tuple[int, int]) -> list[_Map]:
        """The pixels, one channel below the other."""
        sheet = self._sheet(
            "image",
            "The image",
            "Pixels from 0 to 1: change one, and all other sheets follow. Grey zeros are padding.",
        )
        sheet.set_column(0, image.shape[2] + 2 * padding[1], 3.6)
        maps = []
        row = TITLE_ROWS
        for channel, pixels in enumerate(image, start=1):
            sheet.write_string(row, 0, f"channel {channel}", self.label)
            maps.append(_Map("image", row + 1, padding))
            self._map(sheet, maps[-1], pixels, BRIGHTNESS)
            row += len(pixels) + 2 * padding[0] + 2
        return maps

    def stage(self, stage: Stage, below: list[_Map], padding: tuple[int, int]) -> list[_Map]:
        """One convolution: a map for each filter, its bias and kernels to the right of it."""
        count, height, width = stage.activations.shape
        kernel_height, kernel_width = stage.weight.shape[2:]
        sheet = self._sheet(
            stage.name,
            f"{stage.name}: {count} filters, {height}x{width} activations each",
            f"stride {stage.stride[0]}, padding {stage.padding[0]}. Each activation is "
            + ("the larger of 0 and " if stage.relu else "")
            + "the sum of input windows times kernels, plus the bias. Kernels and biases may be "
            "changed.",
        )
        kernels_at = width + 2 * padding[1] + 3
        sheet.set_column(0, kernels_at + len(below) * (kernel_width + 1), 5)
        sheet.freeze_panes(TITLE_ROWS, 0)
        maps = []
        row = TITLE_ROWS
        for index, activations in enumerate(stage.activations):
            sheet.write_string(row, 0, f"filter {index + 1}", self.label)
            maps.append(_Map(stage.name, row + 1, padding))
            self._kernels(sheet, stage, index, row, kernels_at)
            formula = partial(_activation, stage, below, index + 1)
            self._map(sheet, maps[-1], activations, _signs(stage.activations), formula)
            row += max(height + 2 * padding[0], kernel_height) + 2
        return maps

    def _kernels(self, sheet: Any, stage: Stage, index: int, row: int, left: int) -> None:
        """The bias and the kernels of one filter, which may be changed, with their names."""
        bias = row + 1, left - 2
        sheet.write_string(row, left - 2, "bias", self.label)
        sheet.write_number(*bias, float(stage.bias[index]), self.editable)
        self._name(f"{stage.name}_bias_{index + 1}", stage.name, bias, bias)
        height, width = stage.weight.shape[2:]
        colours = _signs(stage.weight)
        for channel, kernel in enumerate(stage.weight[index], start=1):
            first, last = (row + 1, left), (row + height, left + width - 1)
            sheet.write_string(row, left, f"times map {channel}", self.label)
            self._cells(sheet, first, kernel, colours)
            self._name(f"{stage.name}_kernel_{index + 1}_{channel}", stage.name, first, last)
            left += width + 1

    def classes(self, stage: Stage, below: list[_Map], class_names: Sequence[str]) -> None:
        """Softmax over the last layer, and the most probable class."""
        sheet = self._sheet(
            "classes",
            "Class probabilities",
            "Softmax: e to the power of each logit, less the largest, as a share of their sum.",
        )
        sheet.set_column(0, 0, 18)
        sheet.set_column(1, 3, 14)
        first, last = TITLE_ROWS + 1, TITLE_ROWS + len(class_names)
        headings = ("class", "logit", "e^(logit - max)", "probability")
        names = ("class_names", "logits", "powers", "probabilities")
        for column, (heading, name) in enumerate(zip(headings, names, strict=True)):
            sheet.write_string(TITLE_ROWS, column, heading, self.label)
            self._name(name, "classes", (first, column), (last, column))
        logits = stage.activations.flatten()
        powers = (logits - logits.max()).exp()
        shares = powers / powers.sum()
        for index, name in enumerate(class_names):
            row = first + index
            logit, power = (xl_rowcol_to_cell(row, column) for column in (1, 2))
            cell = below[index].window(0, 0, 1, 1).partition(":")[0]
            sheet.write_string(row, 0, name)
            for column, formula, form, value in (
                (1, f"={cell}", self.fine, logits[index]),
                (2, f"=EXP({logit}-MAX(logits))", self.fine, powers[index]),
                (3, f"={power}/SUM(powers)", self.share, shares[index]),
            ):
                sheet.write_formula(row, column, formula, form, float(value))
        bars = {"type": "data_bar", "bar_color": BLUE, "bar_solid": True}
        limits = {"min_type": "num", "max_type": "num", "min_value": 0, "max_value": 1}
        sheet.conditional_format(first, 3, last, 3, bars | limits)
        sheet.write_string(last + 2, 0, "predicted class", self.label)
        self._name("predicted_class", "classes", (last + 2, 1), (last + 2, 1))
        formula = "=INDEX(class_names,MATCH(MAX(probabilities),probabilities,0))"
        predicted = class_names[int(logits.argmax())]
        sheet.write_formula(last + 2, 1, formula, self.label, predicted)

    def _sheet(self, name: str, title: str, note: str) -> Any:
        sheet = self.book.add_worksheet(name)
        sheet.hide_gridlines(2)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)  # printed one page wide
        sheet.write_string(0, 0, title, self.title)
        sheet.write_string(1, 0, note, self.note)
        return sheet

    def _map(
        self, sheet: Any, place: _Map, values: Tensor, colours: Colours, formula: Formula = None
    ) -> None:
        """Write a map `[H, W]`, see `_cells`, and the zeros of its padding."""
        (rows, columns), (height, width) = place.padding, values.shape
        for i in range(height + 2 * rows):
            for j in range(width + 2 * columns):
                if not (rows <= i < rows + height and columns <= j < columns + width):
                    sheet.write_number(place.top + i, j, 0, self.zero)
        self._cells(sheet, (place.top + rows, columns), values, colours, formula)

    def _cells(
        self, sheet: Any, first: Cell, values: Tensor, colours: Colours, formula: Formula = None
    ) -> None:
        """Write `[H, W]` from the cell `first` on: numbers that may be changed, or formulas."""
        top, left = first
        for (i, j), value in np.ndenumerate(values.numpy()):
            if formula is None:
                sheet.write_number(top + i, left + j, value, self.editable)
            else:
                sheet.write_formula(top + i, left + j, formula(i, j), self.number, value)
        last = top + values.shape[0] - 1, left + values.shape[1] - 1
        sheet.conditional_format(*first, *last, colours)

    def _name(self, name: str, sheet: str, first: Cell, last: Cell) -> None:
        corners = [xl_rowcol_to_cell(*cell, row_abs=True, col_abs=True) for cell in (first, last)]
        self.book.define_name(name, f"={sheet}!{':'.join(dict.fromkeys(corners))}")


def _activation(stage: Stage, below: Sequence[_Map], number: int, row: int, column: int) -> str:
    """`=MAX(0,SUMPRODUCT(image!A5:C7,conv1_kernel_1_1)+conv1_bias_1)`, a product for each map."""
    height, width = stage.weight.shape[2:]
    windows = (
        place.window(row * stage.stride[0], column * stage.stride[1], height, width)
        for place in below
    )
    products = (
        f"SUMPRODUCT({window},{stage.name}_kernel_{number}_{channel})"
        for channel, window in enumerate(windows, start=1)
    )
    total = f"{'+'.join(products)}+{stage.name}_bias_{number}"
    return f"=MAX(0,{total})" if stage.relu else f"={total}"


def _signs(values: Tensor) -> dict[str, Any]:
    """Blue below 0, white at 0, red above, scaled by the largest absolute value."""
    largest = float(values.abs().max()) or 1.0
    return {
        "type": "3_color_scale",
        **{"min_type": "num", "mid_type": "num", "max_type": "num"},
        **{"min_value": -largest, "mid_value": 0, "max_value": largest},
        **{"min_color": BLUE, "mid_color": WHITE, "max_color": RED},
    }
