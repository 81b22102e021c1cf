"""The same convolution by its definition, by `im2col`, and by `F.unfold`; and its transpose.

Arguments, results and gradients are those of `F.conv2d`. Shapes use B images, C input and O output
channels, a kernel of kh x kw, K = C/groups * kh * kw, and L = H' * W' positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution.arithmetic import check_at_least, kernel_span, transposed_output_size
from twinloop.convolution.im2col import Geometry, Padding, Pair, add_windows, pair, windows


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
    """Convolve by definition: `[B, C, H, W], [O, C/groups, kh, kw] -> [B, O, H', W']`.

    Each output is the sum of a window times the kernel. As usual in deep learning the kernel is not
    flipped, so strictly speaking this is a cross-correlation.

    Raises:
        ValueError: see `conv2d_im2col`.
    """
    geometry = _check(x, weight, stride, padding, dilation, groups)
    rows, columns = geometry.output_size(x.shape[2:])
    height, width = map(kernel_span, geometry.kernel, geometry.dilation)
    inputs, outputs = weight.shape[1], len(weight) // groups  # of one group
    sums = []
    for image in geometry.pad(x):
        for o, kernel in enumerate(weight):
            first = o // outputs * inputs
            for i in range(0, rows * geometry.stride[0], geometry.stride[0]):
                for j in range(0, columns * geometry.stride[1], geometry.stride[1]):
                    window = image[first : first + inputs, i : i + height, j : j + width]
                    window = window[:, :: geometry.dilation[0], :: geometry.dilation[1]]
                    sums.append((window * kernel).sum())
    result = torch.stack(sums) if sums else x.new_zeros(0)
    return _with_bias(result.view(len(x), len(weight), rows, columns), bias)


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
    geometry = _check(x, weight, stride, padding, dilation, groups)
    size = geometry.output_size(x.shape[2:])
    columns = F.unfold(geometry.pad(x), geometry.kernel, geometry.dilation, stride=geometry.stride)
    products = [
        kernels.flatten(1) @ part  # [O/groups, K] @ [B, K, L]
        for kernels, part in zip(weight.chunk(groups), columns.chunk(groups, 1), strict=True)
    ]
    result = torch.cat(products, 1) if groups > 1 else products[0]
    return _with_bias(result.view(len(x), len(weight), *size), bias)


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
    processing" (https://inria.hal.science/inria-00112631). The windows are a view that only the
    product copies. The gradients are hand-written too.

    Raises:
        ValueError: `groups` does not divide the channels; channels of input, weight and bias
            differ; a stride, dilation or kernel below 1; a kernel larger than the padded input.
    """
    geometry = _check(x, weight, stride, padding, dilation, groups)
    result: Tensor = _Im2colConvolution.apply(x, weight, geometry, groups)  # type: ignore[no-untyped-call]
    return _with_bias(result, bias)


class _Im2colConvolution(torch.autograd.Function):
    """The product of all windows and all kernels, and its two gradients, which are products too.

    Indices: b image, g group, o and c output and input channel of the group, i and j row and
    column of the kernel, y and x row and column of the output. The products are differentiable, so
    second derivatives work too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.groups = geometry, groups
        kernels, inputs = _grouped(weight, 0, groups), _grouped(windows(x, geometry), 1, groups)
        return torch.einsum("gocij,bgcijyx->bgoyx", kernels, inputs).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, weight), geometry, groups = ctx.saved_tensors, ctx.geometry, ctx.groups
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_x = _transposed(gradient, weight, geometry, groups, x.shape[2:])
        if ctx.needs_input_grad[1]:
            outputs, inputs = (_grouped(t, 1, groups) for t in (gradient, windows(x, geometry)))
            for_weight = torch.einsum("bgoyx,bgcijyx->gocij", outputs, inputs).flatten(0, 1)
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
    """Add each pixel times the kernel to the output: `F.conv_transpose2d`.

    `[B, C, H, W], [C, O/groups, kh, kw] -> [B, O, H', W']`. As a matrix it is the transpose of
    `conv2d_im2col`, and so its gradient (Dumoulin & Visin 2016, arXiv:1603.07285, section 4).

    Raises:
        ValueError: see `conv2d_im2col` and `arithmetic.transposed_output_size`.
    """
    _check_dimensions(x, weight)
    check_at_least(1, groups=groups)
    if len(weight) != x.shape[1] or len(weight) % groups:
        raise ValueError(
            f"groups={groups}, {x.shape[1]} input channels and a weight of {tuple(weight.shape)}; "
            "the weight's first dimension must be the channels, and a multiple of the groups"
        )
    geometry = Geometry.of((weight.shape[2], weight.shape[3]), stride, padding, dilation)
    size = [
        transposed_output_size(pixels, kernel, stride=s, padding=p, dilation=d, output_padding=o)
        for pixels, kernel, s, p, d, o in zip(
            x.shape[2:], *geometry, pair(output_padding), strict=True
        )
    ]
    return _with_bias(_transposed(x, weight, geometry, groups, size), bias)


def conv2d_upsampled(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, scale: int = 2, padding: Padding = 1
) -> Tensor:
    """Repeat every pixel `scale` x `scale` times, then convolve: the lesson's deconvolution.

    `[B, C, H, W], [O, C, kh, kw] -> [B, O, scale*H, scale*W]` with a 3x3 kernel and padding 1.
    Every output sums equally many terms, which avoids a checkerboard pattern (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard).

    Raises:
        ValueError: a scale below 1; see also `conv2d_im2col`.
    """
    check_at_least(1, scale=scale)
    repeated = x.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    return conv2d_im2col(repeated, weight, bias, padding=padding)


def _transposed(
    x: Tensor, weight: Tensor, geometry: Geometry, groups: int, size: Sequence[int]
) -> Tensor:
    """The transpose of a convolution: `[B, O, H', W'], [O, C/groups, kh, kw] -> [B, C, *size]`.

    O and C are the output and input channels of that convolution.
    """
    kernels, pixels = _grouped(weight, 0, groups), _grouped(x, 1, groups)
    parts = torch.einsum("gocij,bgoyx->bgcijyx", kernels, pixels).flatten(1, 2)
    return add_windows(parts, geometry, size)


def _check(
    x: Tensor, weight: Tensor, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Geometry:
    """Check that the arguments match, and return the geometry."""
    _check_dimensions(x, weight)
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
    return Geometry.of((weight.shape[2], weight.shape[3]), stride, padding, dilation)


def _check_dimensions(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"input {tuple(x.shape)} and weight {tuple(weight.shape)}; both must have 4 "
            "dimensions: [B, C, H, W] and [O, C/groups, kh, kw]"
        )


def _grouped(tensor: Tensor, dim: int, groups: int) -> Tensor:
    return torch.unflatten(tensor, dim, (groups, -1))


def _with_bias(result: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return result
    if bias.shape != result.shape[1:2]:
        outputs = result.shape[1]
        raise ValueError(f"bias {tuple(bias.shape)}; it must be [{outputs}], one value per channel")
    return result + bias[:, None, None]
