"""Windows of an image as columns of a matrix, and back: `im2col`, and its adjoint `col2im`.

Shapes use B images of C channels, a kernel of kh x kw, and L = H' * W' positions of the kernel.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.arithmetic import output_size

Pair = int | tuple[int, int]
"""One value for both axes, or (rows, columns)."""
Padding = Pair | tuple[int, int, int, int]
"""Zeros at both ends, as a `Pair`; or (left, right, top, bottom)."""


class Geometry(NamedTuple):
    """How a kernel moves over an image; each setting as (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    """(top, bottom), (left, right)."""
    dilation: tuple[int, int]

    @classmethod
    def of(cls, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> "Geometry":
        """Expand settings that are given as one value for both axes."""
        if isinstance(padding, int) or len(padding) == 2:
            rows, columns = pair(padding)
            padding = (columns, columns, rows, rows)
        left, right, top, bottom = padding
        return cls(pair(kernel), pair(stride), ((top, bottom), (left, right)), pair(dilation))

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """`(H, W) -> (H', W')`; raises as `arithmetic.output_size` does."""
        rows, columns = (
            output_size(pixels, kernel, stride=stride, padding=ends, dilation=dilation)
            for pixels, kernel, stride, ends, dilation in zip(size, *self, strict=True)
        )
        return rows, columns

    def pad(self, x: Tensor) -> Tensor:
        """Add the padding, `[B, C, H, W] -> [B, C, top + H + bottom, left + W + right]`."""
        rows, columns = self.padding
        return F.pad(x, (*columns, *rows)) if any(rows + columns) else x


def im2col(
    x: Tensor, kernel: Pair, *, stride: Pair = 1, padding: Padding = 0, dilation: Pair = 1
) -> Tensor:
    """Lay out every window as a column: `[B, C, H, W] -> [B, C*kh*kw, L]`, as `F.unfold` does.

    Raises:
        ValueError: a stride, dilation or kernel below 1, or a kernel larger than the padded input.
    """
    return windows(x, Geometry.of(kernel, stride, padding, dilation)).flatten(4).flatten(1, 3)


def col2im(
    columns: Tensor,
    size: tuple[int, int],
    kernel: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Add every column to the pixels of its window: `[B, C*kh*kw, L] -> [B, C, *size]`.

    The adjoint of `im2col`, as `F.fold` is of `F.unfold`: `(im2col(x) * y).sum() == (x *
    col2im(y)).sum()`. It is not the inverse: a pixel in n windows is multiplied by n.

    Raises:
        ValueError: the columns do not have the shape of `im2col` for an image of `size`.
    """
    geometry = Geometry.of(kernel, stride, padding, dilation)
    rows, row_length = geometry.output_size(size)
    area = geometry.kernel[0] * geometry.kernel[1]
    if columns.ndim != 3 or columns.shape[1] % area or columns.shape[2] != rows * row_length:
        raise ValueError(
            f"columns of shape {tuple(columns.shape)}; from an image of {size} they must be "
            f"[B, a multiple of {area}, {rows * row_length}]"
        )
    parts = columns.reshape(len(columns), -1, *geometry.kernel, rows, row_length)
    return add_windows(parts, geometry, size)


def windows(x: Tensor, geometry: Geometry) -> Tensor:
    """Every window under a kernel: `[B, C, H, W] -> [B, C, kh, kw, H', W']`, without a copy.

    A strided view of the padded image: one step in the output is `stride` pixels, one step in the
    kernel is `dilation` pixels.
    """
    positions = geometry.output_size(x.shape[2:])
    padded = geometry.pad(x)
    image, channel, *pixel = padded.stride()
    within = [step * dilation for step, dilation in zip(pixel, geometry.dilation, strict=True)]
    between = [step * stride for step, stride in zip(pixel, geometry.stride, strict=True)]
    return padded.as_strided(
        (*x.shape[:2], *geometry.kernel, *positions), (image, channel, *within, *between)
    )


def add_windows(parts: Tensor, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """The adjoint of `windows`: `[B, C, kh, kw, H', W'] -> [B, C, *size]`.

    One strided addition per element of the kernel, over all positions at once.
    """
    (height, width), (rows, columns) = size, parts.shape[4:]
    (top, bottom), (left, right) = geometry.padding
    down, across = geometry.stride
    padded = parts.new_zeros(*parts.shape[:2], top + height + bottom, left + width + right)
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            y, x = i * geometry.dilation[0], j * geometry.dilation[1]
            pixels = padded[:, :, y : y + rows * down : down, x : x + columns * across : across]
            pixels += parts[:, :, i, j]
    return padded[:, :, top : top + height, left : left + width]


def pair(value: Pair) -> tuple[int, int]:
    """The value of each axis, rows first."""
    return (value, value) if isinstance(value, int) else value
