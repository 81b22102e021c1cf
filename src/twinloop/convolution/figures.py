"""Figures of convolutions: kernel responses, geometry, receptive fields, learnt filters."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.convolution.arithmetic import kernel_span, output_size
from twinloop.convolution.chain import layers_of, output_of
from twinloop.convolution.conv2d import conv2d_im2col, conv_transpose2d
from twinloop.convolution.im2col import im2col
from twinloop.convolution.kernels import KERNELS, apply_kernel
from twinloop.convolution.receptive_field import by_arithmetic, field_of
from twinloop.convolution.receptive_field_gradient import effective_field
from twinloop.convolution.stages import Stage, stages_of
from twinloop.figures import subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#1f2430", "#c9ced8"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Distinguishable with colour blindness (Okabe & Ito 2008)."""


def kernel_responses(images: Tensor, names: Sequence[str]) -> "Figure":
    """Each kernel beside its response to images `[N, C, H, W]`: blue below 0, red above."""
    grey = images.mean(1)
    rows = {name: (kernel, apply_kernel(grey, kernel)) for name, kernel in KERNELS.items()}
    return _responses(grey, names, rows, digits=0)


def im2col_matrix() -> "Figure":
    """A 4x4 image, its windows as columns, and their product with a kernel as a row."""
    letters = [chr(ord("a") + i) for i in range(16)]
    columns = im2col(torch.arange(16.0).view(1, 1, 4, 4), 3)[0].long()  # [9, 4]
    figure, axes = subplots(1, 3, (9.6, 4.4), (4, 4.6, 2.4))
    image, matrix, output = axes[0]
    for cell, letter in enumerate(letters):
        _cell(image, cell // 4, cell % 4, letter)
    for index, colour in enumerate(COLOURS):
        shift = 0.06 * index - 0.09
        _outline(image, index // 2 + shift, index % 2 + shift, 3, 3, colour)
    for row, line in enumerate(columns.tolist()):
        for column, cell in enumerate(line):
            _cell(matrix, row, column, letters[cell], COLOURS[column])
    for index, colour in enumerate(COLOURS):
        _cell(output, index // 2, index % 2, f"w·{index + 1}", colour)
    for axis, title, rows, across in (
        (image, "image, 4x4\nfour windows of 3x3", 4, 4),
        (matrix, "im2col: 9 rows, 4 columns\none window per column", 9, 4),
        (output, "product with a kernel (1x9),\nas an image: 2x2", 2, 2),
    ):
        _frame(axis, rows, across, title)
    return figure


def padding_and_stride() -> "Figure":
    """The positions of a kernel on 5x5 pixels with four settings; dots are their centres."""
    settings = [
        ("padding 0, stride 1", 3, 0, 1, 1),
        ("padding 1, stride 1: “same”", 3, 1, 1, 1),
        ("padding 1, stride 2", 3, 1, 2, 1),
        ("padding 2, dilation 2", 3, 2, 1, 2),
    ]
    figure, axes = _subplots(1, 4, 2.6, 3.2)
    for axis, (name, kernel, padding, stride, dilation) in zip(axes[0], settings, strict=True):
        size = output_size(5, kernel, padding=padding, stride=stride, dilation=dilation)
        for row in range(-padding, 5 + padding):
            for column in range(-padding, 5 + padding):
                inside = 0 <= row < 5 and 0 <= column < 5
                _cell(axis, row, column, "" if inside else "0", INK if inside else FAINT)
        for k, colour in enumerate(COLOURS[:2]):
            reads = [k * stride - padding + i * dilation for i in range(kernel)]
            for row in range(kernel):
                for column in reads:
                    place = row * dilation - padding, column
                    _rectangle(axis, *place, 1, 1, fc=colour, alpha=0.22, lw=0)
            span = kernel_span(kernel, dilation)
            _outline(axis, -padding, reads[0], span, span, colour)
        middle = (kernel_span(kernel, dilation) - 1) / 2 - padding
        centres = middle + stride * np.arange(size)
        axis.plot(*np.meshgrid(centres, centres), "o", c=INK, ms=3.5)
        _frame(axis, 5 + padding, 5 + padding, f"{name}\n5x5 to {size}x{size}", start=-padding)
    for axis in axes[0]:
        axis.set(xlim=(-2.7, 6.7), ylim=(6.7, -2.7))
    return figure


def receptive_fields(model: nn.Module, image: Tensor) -> "Figure":
    """The pixels of `image` `[C, H, W]` that the middle activation of each stage depends on."""
    stages = stages_of(model, image)
    figure, axes = _subplots(1, len(stages), 1.9, 2.1)
    for axis, stage, colour in zip(axes[0], stages, COLOURS * len(stages), strict=False):
        rows, columns = stage.activations.shape[1:]
        position = (rows // 2, columns // 2)
        seen = by_arithmetic(model, image.shape, stage.layer, position)
        _grey(axis, image.mean(0))
        shade = torch.zeros(*seen.shape, 4)
        shade[~seen] = torch.tensor([1, 1, 1, 0.72])
        axis.imshow(shade.numpy())
        lit = seen.nonzero()
        (top, left), (bottom, right) = lit.min(0).values.tolist(), lit.max(0).values.tolist()
        _outline(axis, top, left, bottom - top + 1, right - left + 1, colour)
        size = f"{bottom - top + 1}x{right - left + 1} pixels"
        axis.set_title(f"{stage.name}, at {position}\n{size}", fontsize=8)
    return figure


def learnt_filters(model: nn.Module, images: Tensor, names: Sequence[str]) -> "Figure":
    """Kernels of the first stage, and its activations for images `[N, C, H, W]`."""
    stages = [stages_of(model, image)[0] for image in images]
    outputs = torch.stack([stage.activations for stage in stages])  # [N, O, H', W']
    rows = {
        f"filter {index + 1}": (kernel.mean(0), outputs[:, index])
        for index, kernel in enumerate(stages[0].weight)
    }
    return _responses(images.mean(1), names, rows, digits=1)


def strongest_patches(model: nn.Module, images: Tensor, stage_index: int = 1) -> "Figure":
    """For each filter of a stage, the patches of `[N, C, H, W]` with the largest activations.

    At most one patch per image, of the size of the receptive field; padding is white.
    """
    stage = stages_of(model, images[0])[stage_index]
    layers = layers_of(model, images.shape[1:])
    names = [layer.name for layer in layers]
    field = field_of(layers[: names.index(stage.layer) + 1])
    height, width = field.size
    padded = F.pad(images.mean(1), (width, width, height, height))
    with torch.no_grad():
        activations = output_of(model, images, stage.layer)  # [N, O, H', W']
    filters, shown = min(8, activations.shape[1]), min(8, len(images))
    figure, axes = _subplots(filters, shown, 0.85, 0.85)
    for channel, line in enumerate(axes):
        best, flat_index = activations[:, channel].flatten(1).max(1)
        for axis, index in zip(line, best.argsort(descending=True)[:shown].tolist(), strict=True):
            position = divmod(int(flat_index[index]), activations.shape[3])
            top, left = (
                int(centre + jump * at - Fraction(size - 1, 2)) + size
                for centre, jump, at, size in zip(
                    field.centre, field.jump, position, field.size, strict=True
                )
            )
            _grey(axis, padded[index, top : top + height, left : left + width])
            axis.set_visible(bool(best[index] > 0))
        line[0].set_visible(True)
        never = "" if best.max() > 0 else "\nis never active"
        line[0].set_ylabel(f"filter {channel + 1}{never}", fontsize=8)
    return figure


def effective_fields(models: dict[str, nn.Module], images: Tensor) -> "Figure":
    """The effective receptive field of the middle of each stage, over `[B, C, H, W]`, by model."""
    stages: list[Stage] = stages_of(next(iter(models.values())), images[0])
    figure, axes = _subplots(len(models), len(stages), 1.9, 1.9)
    for line, (name, model) in zip(axes, models.items(), strict=True):
        for axis, stage in zip(line, stages, strict=True):
            axis.imshow(effective_field(model, images, stage.layer).numpy(), cmap="magma_r", vmin=0)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{stage.name}, {name}", fontsize=8)
    return figure


def upsamplings() -> "Figure":
    """How many terms each pixel sums when 6x6 ones are upsampled to twice the size."""
    ones = torch.ones(1, 1, 6, 6)
    repeated = F.interpolate(ones, scale_factor=2)
    results = {
        "transposed, kernel 3, stride 2": conv_transpose2d(
            ones, torch.ones(1, 1, 3, 3), stride=2, padding=1, output_padding=1
        ),
        "transposed, kernel 4, stride 2": conv_transpose2d(
            ones, torch.ones(1, 1, 4, 4), stride=2, padding=1
        ),
        "repeated 2x2, then kernel 3": conv2d_im2col(repeated, torch.ones(1, 1, 3, 3), padding=1),
    }
    figure, axes = _subplots(1, 3, 2.9, 3.0)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        axis.imshow(result[0, 0].numpy(), cmap="Blues", vmin=0, vmax=12)
        _write(axis, result[0, 0], ".0f")
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=8)
    return figure


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple["Figure", Any]:
    """Axes of `width` x `height` inches each."""
    return subplots(rows, columns, (columns * width, rows * height + 0.1))


def _responses(
    images: Tensor,
    names: Sequence[str],
    rows: Mapping[str, tuple[Tensor, Tensor]],
    *,
    digits: int,
) -> "Figure":
    """Images `[N, H, W]`, and below a row for each kernel `[kh, kw]` with outputs `[N, H', W']`."""
    figure, axes = _subplots(1 + len(rows), 1 + len(images), 0.95, 0.95)
    axes[0, 0].axis("off")
    for axis, image, name in zip(axes[0, 1:], images, names, strict=True):
        _grey(axis, image)
        axis.set_title(name, fontsize=8)
    for line, (name, (kernel, outputs)) in zip(axes[1:], rows.items(), strict=True):
        _signed(line[0], kernel, 1.6 * float(kernel.abs().max()))
        fractions = bool((kernel != kernel.round()).any())
        _write(line[0], kernel, f".{digits or 2 * fractions}f")
        line[0].set_title(name, fontsize=8)
        for axis, output in zip(line[1:], outputs, strict=True):
            _signed(axis, output, float(outputs.abs().max()))
    return figure


def _grey(axis: Any, image: Tensor) -> None:
    axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def _signed(axis: Any, values: Tensor, largest: float) -> None:
    """Blue below 0, white at 0, red above."""
    limit = largest or 1.0
    axis.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set(xticks=[], yticks=[])


def _write(axis: Any, values: Tensor, form: str) -> None:
    """Write each value of `[H, W]` on its pixel, without leading zeros."""
    for (row, column), value in np.ndenumerate(values.numpy()):
        text = f"{value:{form}}"
        text = text.replace("0.", ".") if abs(value) < 1 else text
        axis.text(column, row, text, ha="center", va="center", size=6, color=INK)


def _cell(axis: Any, row: float, column: float, text: str, colour: str = INK) -> None:
    _outline(axis, row, column, 1, 1, FAINT, width=0.8)
    axis.text(column, row, text, ha="center", va="center", size=8, color=colour)


def _outline(
    axis: Any, row: float, column: float, rows: int, columns: int, colour: str, width: float = 2
) -> None:
    """Frame `rows` x `columns` pixels, with (row, column) at the upper left."""
    _rectangle(axis, row, column, rows, columns, fill=False, ec=colour, lw=width)


def _rectangle(axis: Any, row: float, column: float, rows: int, columns: int, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((column - 0.5, row - 0.5), columns, rows, **style))


def _frame(axis: Any, rows: int, columns: int, title: str, start: int = 0) -> None:
    """Show square cells without axes."""
    axis.set(xlim=(start - 0.6, columns - 0.4), ylim=(rows - 0.4, start - 0.6), aspect="equal")
    axis.axis("off")
    axis.set_title(title, fontsize=9)
