"""Three ways to the same convolution: by the definition, by `im2col`, and by `F.unfold`.

All take and give what `F.conv2d` does, gradients included. Shapes use B pictures, C channels in,
O channels out, a kernel of kh x kw, and L = H' * W' places where the kernel is put down.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.arithmetic import (
    check_at_least,
    kernel_span,
    output_size,
    transposed_output_size,
)

Pair = int | tuple[int, int]
"""One number for both axes, or one for rows and one for columns."""
Padding = Pair | tuple[int, int, int, int]
"""Rows of zeros above and below and columns on both sides; or left, right, top, bottom."""


class Geometry(NamedTuple):
    """How a kernel moves over a picture, each number spelled out for both axes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Left, right, top, bottom, as `F.pad` has it."""
    dilation: tuple[int, int]

    @classmethod
    def of(cls, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> "Geometry":
        """Spell out numbers that stand for both axes."""
        if isinstance(padding, int) or len(padding) == 2:
            rows, columns = _pair(padding)
            padding = (columns, columns, rows, rows)
        return cls(_pair(kernel), _pair(stride), padding, _pair(dilation))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output, `(H', W')`; raises as `arithmetic.output_size` does."""
        left, right, top, bottom = self.padding
        rows, columns = (
            output_size(size, kernel, stride=stride, padding=ends, dilation=dilation)
            for size, kernel, stride, ends, dilation in zip(
                (height, width),
                self.kernel,
                self.stride,
                ((top, bottom), (left, right)),
                self.dilation,
                strict=True,
            )
        )
        return rows, columns


def conv2d_loops(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve by the definition: `[B, C, H, W], [O, C/groups, kh, kw] -> [B, O, H', W']`.

    Put the kernel down at every place, multiply what lies under it, add up. As everywhere in deep
    learning the kernel is not flipped, so strictly this is a cross-correlation.

    Raises:
        ValueError: see `conv2d_im2col`.
    """
    geometry = _check(x, weight, bias, stride, padding, dilation, groups)
    rows, columns = geometry.output_size(x.shape[2], x.shape[3])
    picture = F.pad(x, geometry.padding)
    down, across = geometry.stride
    height, width = (
        kernel_span(k, d) for k, d in zip(geometry.kernel, geometry.dilation, strict=True)
    )
    inputs, outputs = weight.shape[1], len(weight) // groups
    sums = []
    for b in range(len(x)):
        for o in range(len(weight)):
            first = o // outputs * inputs  # the first channel of the group
            for i in range(0, rows * down, down):
                for j in range(0, columns * across, across):
                    window = picture[b, first : first + inputs, i : i + height, j : j + width]
                    window = window[:, :: geometry.dilation[0], :: geometry.dilation[1]]
                    sums.append((window * weight[o]).sum())
    if not sums:
        return x.new_zeros(len(x), len(weight), rows, columns)
    result = torch.stack(sums).view(len(x), len(weight), rows, columns)
    return result if bias is None else result + bias[:, None, None]


def conv2d_unfold(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve by `F.unfold`: `[B, C, H, W], [O, C/groups, kh, kw] -> [B, O, H', W']`.

    Raises:
        ValueError: see `conv2d_im2col`.
    """
    geometry = _check(x, weight, bias, stride, padding, dilation, groups)
    rows, columns = geometry.output_size(x.shape[2], x.shape[3])
    unfolded = F.unfold(
        F.pad(x, geometry.padding), geometry.kernel, geometry.dilation, stride=geometry.stride
    )
    parts = [
        kernels.flatten(1) @ part  # [O/groups, K] @ [B, K, L]
        for kernels, part in zip(weight.chunk(groups), unfolded.chunk(groups, 1), strict=True)
    ]
    result = torch.cat(parts, 1) if groups > 1 else parts[0]
    result = result.view(len(x), len(weight), rows, columns)
    return result if bias is None else result + bias[:, None, None]


def conv2d_im2col(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve by one matrix product: `[B, C, H, W], [O, C/groups, kh, kw] -> [B, O, H', W']`.

    Chellapilla et al. 2006, "High performance convolutional neural networks for document
    processing" (https://inria.hal.science/inria-00112631). The windows stay a view until the
    product itself lays them out; the gradients are ours too.

    Raises:
        ValueError: channels that `groups` does not divide or that differ between input, weight
            and bias; a stride, dilation or kernel below 1; a kernel larger than the padded input.
    """
    geometry = _check(x, weight, bias, stride, padding, dilation, groups)
    result: Tensor = _Im2colConvolution.apply(x, weight, geometry, groups)  # type: ignore[no-untyped-call]
    return result if bias is None else result + bias[:, None, None]


class _Im2colConvolution(torch.autograd.Function):
    """The product of all windows with all kernels, and its two gradients.

    Both are products again, written in operations that have gradients themselves.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.groups = geometry, groups
        parts = [
            # [B, C/g, kh, kw, H', W'] x [O/g, C/g, kh, kw] -> [O/g, B, H', W']
            torch.tensordot(kernels, part, dims=([1, 2, 3], [1, 2, 3]))
            for kernels, part in zip(
                weight.chunk(groups), windows(x, geometry).chunk(groups, 1), strict=True
            )
        ]
        return (torch.cat(parts) if groups > 1 else parts[0]).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, weight), geometry, groups = ctx.saved_tensors, ctx.geometry, ctx.groups
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            # Each output gives its gradient back to all that it was summed from.
            for_x = _transposed(gradient, weight, geometry, groups, (x.shape[2], x.shape[3]))
        if ctx.needs_input_grad[1]:
            parts = [
                # [B, O/g, H', W'] x [B, C/g, kh, kw, H', W'] -> [O/g, C/g, kh, kw]
                torch.tensordot(output, part, dims=([0, 2, 3], [0, 4, 5]))
                for output, part in zip(
                    gradient.chunk(groups, 1), windows(x, geometry).chunk(groups, 1), strict=True
                )
            ]
            for_weight = torch.cat(parts)
        return for_x, for_weight, None, None


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Put a kernel down for every pixel, as `F.conv_transpose2d`.

    `[B, C, H, W], [C, O/groups, kh, kw] -> [B, O, H', W']`. The transpose of `conv2d_im2col` as a
    matrix: what a convolution does to gradients on their way back (Dumoulin & Visin 2016,
    arXiv:1603.07285, section 4).

    Raises:
        ValueError: see `conv2d_im2col` and `arithmetic.transposed_output_size`.
    """
    _check_dims(x, weight)
    geometry = Geometry.of((weight.shape[2], weight.shape[3]), stride, padding, dilation)
    check_at_least(1, groups=groups)
    if len(weight) != x.shape[1] or len(weight) % groups:
        raise ValueError(
            f"groups={groups}, {x.shape[1]} channels in and a weight of {tuple(weight.shape)}; "
            "the weight's first size must be the channels, and a multiple of the groups"
        )
    outputs = weight.shape[1] * groups
    _check_bias(bias, outputs)
    left, right, top, bottom = geometry.padding
    height, width = (
        transposed_output_size(
            size, kernel, stride=s, padding=ends, dilation=d, output_padding=extra
        )
        for size, kernel, s, ends, d, extra in zip(
            x.shape[2:],
            geometry.kernel,
            geometry.stride,
            ((top, bottom), (left, right)),
            geometry.dilation,
            _pair(output_padding),
            strict=True,
        )
    )
    result = _transposed(x, weight, geometry, groups, (height, width))
    return result if bias is None else result + bias[:, None, None]


def conv2d_upsampled(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, scale: int = 2, padding: Padding = 1
) -> Tensor:
    """Repeat every pixel `scale` x `scale` times, then convolve: the lesson's deconvolution.

    `[B, C, H, W], [O, C, kh, kw] -> [B, O, scale*H, scale*W]` with a 3x3 kernel and padding 1.
    Every pixel gets as many sums as its neighbour, so there is no checkerboard (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard).

    Raises:
        ValueError: a scale below 1; see also `conv2d_im2col`.
    """
    check_at_least(1, scale=scale)
    _check_dims(x, weight)
    b, c, h, w = x.shape
    repeated = x[:, :, :, None, :, None].expand(b, c, h, scale, w, scale)
    return conv2d_im2col(
        repeated.reshape(b, c, h * scale, w * scale), weight, bias, padding=padding
    )


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
    """Add every column back to where `im2col` took it from: `[B, C*kh*kw, L] -> [B, C, *size]`.

    The adjoint of `im2col`, as `F.fold` is of `F.unfold`: `(im2col(x) * y).sum() == (x *
    col2im(y)).sum()`. Not its inverse: a pixel under n windows comes back n times as large.

    Raises:
        ValueError: columns that windows of this kernel over `size` do not make.
    """
    geometry = Geometry.of(kernel, stride, padding, dilation)
    places = geometry.output_size(*size)
    numbers = geometry.kernel[0] * geometry.kernel[1]
    if columns.ndim != 3 or columns.shape[1] % numbers or columns.shape[2] != places[0] * places[1]:
        raise ValueError(
            f"columns of shape {tuple(columns.shape)}; from a picture of {size} they must be "
            f"[B, a multiple of {numbers}, {places[0] * places[1]}]"
        )
    parts = columns.reshape(len(columns), -1, *geometry.kernel, *places)
    return _add_windows(parts, geometry, size)


def windows(x: Tensor, geometry: Geometry) -> Tensor:
    """Every window under a kernel: `[B, C, H, W] -> [B, C, kh, kw, H', W']`, without a copy.

    A view of the padded picture, in which a pixel is seen once for each window that it is in: one
    step to the right in the output is `stride` pixels, one step in the kernel is `dilation`.
    """
    places = geometry.output_size(x.shape[2], x.shape[3])
    padded = F.pad(x, geometry.padding) if any(geometry.padding) else x
    picture, channel, row, column = padded.stride()
    return padded.as_strided(
        (x.shape[0], x.shape[1], *geometry.kernel, *places),
        (
            picture,
            channel,
            row * geometry.dilation[0],
            column * geometry.dilation[1],
            row * geometry.stride[0],
            column * geometry.stride[1],
        ),
    )


def _add_windows(parts: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """The adjoint of `windows`: `[B, C, kh, kw, H', W'] -> [B, C, *size]`.

    One strided addition for each number of the kernel, over all places at once.
    """
    left, right, top, bottom = geometry.padding
    rows, columns = parts.shape[4:]
    padded = parts.new_zeros(*parts.shape[:2], size[0] + top + bottom, size[1] + left + right)
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            above, before = i * geometry.dilation[0], j * geometry.dilation[1]
            padded[
                :,
                :,
                above : above + rows * geometry.stride[0] : geometry.stride[0],
                before : before + columns * geometry.stride[1] : geometry.stride[1],
            ] += parts[:, :, i, j]
    return padded[:, :, top : top + size[0], left : left + size[1]]


def _transposed(
    x: Tensor, weight: Tensor, geometry: Geometry, groups: int, size: tuple[int, int]
) -> Tensor:
    """Each pixel times its kernels, added up: `[B, O, H', W'], [O, C/g, kh, kw] -> [B, C, *size]`.

    O and C are those of the convolution that this goes back through.
    """
    parts = [
        # [O/g, C/g, kh, kw] x [B, O/g, H', W'] -> [C/g, kh, kw, B, H', W']
        torch.tensordot(kernels, part, dims=([0], [1])).movedim(3, 0)
        for kernels, part in zip(weight.chunk(groups), x.chunk(groups, 1), strict=True)
    ]
    return _add_windows(torch.cat(parts, 1) if groups > 1 else parts[0], geometry, size)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Geometry:
    """What can be known to be wrong before anything is multiplied."""
    _check_dims(x, weight)
    check_at_least(1, groups=groups)
    channels = x.shape[1]
    if channels % groups or len(weight) % groups:
        raise ValueError(
            f"groups={groups} does not divide {channels} channels in and {len(weight)} out; "
            "each group takes an equal share of both"
        )
    if weight.shape[1] * groups != channels:
        raise ValueError(
            f"the weight takes {weight.shape[1]} channels in each of groups={groups}, but the "
            f"input has {channels}; it must take {channels // groups}"
        )
    _check_bias(bias, len(weight))
    return Geometry.of((weight.shape[2], weight.shape[3]), stride, padding, dilation)


def _check_dims(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"input {tuple(x.shape)} and weight {tuple(weight.shape)}; both must have 4 sizes: "
            "[B, C, H, W] and [O, C/groups, kh, kw]"
        )


def _check_bias(bias: Tensor | None, outputs: int) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias {tuple(bias.shape)}; it must have one number for {outputs} outputs")


def _pair(numbers: Pair) -> tuple[int, int]:
    return (numbers, numbers) if isinstance(numbers, int) else numbers
