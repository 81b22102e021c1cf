"""The input pixels that an activation depends on, and how strongly, by its gradient."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.convolution.chain import output_of
from twinloop.convolution.im2col import pair
from twinloop.convolution.receptive_field import check_position, spatial_size

CANCELLING = (
    *(nn.Softmax, nn.LogSoftmax, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d),
    nn.MultiheadAttention,
)
"""Layers that subtract a mean, whose gradients cancel if all weights are equal."""


def by_gradient(
    model: nn.Module,
    input_shape: Sequence[int],
    layer: str | None = None,
    position: tuple[int, int] = (0, 0),
) -> Tensor:
    """The pixels that one activation depends on, as bool `[H, W]`, for models with branches too.

    The gradient of a float64 copy of the model. All its weights have the same positive value, so
    that nothing cancels and every ReLU is active; batch norms are the identity; max pools, whose
    gradient reaches only one pixel, are replaced by means, except `F.max_pool2d`. `layer` is a name
    as in `by_arithmetic`, by default of the model's output; `position` is as there.

    Raises:
        ValueError: a layer that did not run, a position outside of its output, or a layer that
            subtracts a mean (softmax, layer, group and instance norm, attention).
    """
    for name, module in model.named_modules():
        if isinstance(module, CANCELLING):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}, whose gradients cancel; "
                "use the model without it"
            )
    image = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
    activations = _activations_at(position, output_of(_with_open_gradients(model), image, layer))
    gradient = torch.autograd.grad(activations.sum(), image, allow_unused=True)[0]
    if gradient is None:
        return torch.zeros(*input_shape[1:], dtype=torch.bool)
    return gradient[0].any(0)


def effective_field(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    position: tuple[int, int] | None = None,
) -> Tensor:
    """How strongly one activation depends on each pixel: `[B, C, H, W] -> [H, W]`, at most 1.

    The effective receptive field of Luo et al. 2016 (arXiv:1701.04128): the absolute gradient,
    averaged over images, input and output channels, divided by its maximum. `layer` is as in
    `by_gradient`; `position` is the middle by default.

    Raises:
        ValueError: a layer that did not run, or a position outside of its output.
    """
    images = images.detach().clone().requires_grad_()
    output = output_of(model, images, layer)
    rows, columns = spatial_size(output.shape[1:])
    total = torch.zeros_like(images[0, 0])
    for channel in _activations_at(position or (rows // 2, columns // 2), output).sum(0):
        (gradient,) = torch.autograd.grad(channel, images, retain_graph=True)
        total += gradient.abs().mean((0, 1))
    largest = total.max()
    return total / largest if largest > 0 else total


def _activations_at(position: tuple[int, int], output: Tensor) -> Tensor:
    """`[B, O, H, W]` or `[B, O] -> [B, O]`."""
    check_position(position, output.shape[1:])
    return output[..., *position] if output.ndim == 4 else output


def _with_open_gradients(model: nn.Module) -> nn.Module:
    """A copy of `model` that passes every gradient; see `by_gradient`."""
    # In a Sequential, so that the model itself can be replaced.
    copied = nn.Sequential(copy.deepcopy(model)).double().cpu()
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, _MeanPool(child))
            elif isinstance(child, nn.AdaptiveMaxPool2d):
                setattr(module, name, nn.AdaptiveAvgPool2d(child.output_size))
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            # The sum over a kernel is at most 1, so that nothing saturates.
            parameter.fill_(0 if name.endswith("bias") else 1 / parameter.numel())
        for name, buffer in copied.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.fill_(name.endswith("running_var"))
    return copied[0]


class _MeanPool(nn.Module):
    """The means of a max pool's windows, whose gradient reaches all pixels."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pool = self.pool
        size, stride, padding, dilation = (
            pair(value) for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        rows, columns = pool(x).shape[2:]
        # With ceil_mode, the last windows extend up to a stride beyond the padding.
        beyond = padding[1], padding[1] + stride[1], padding[0], padding[0] + stride[0]
        kernel = x.new_full((x.shape[1], 1, *size), 1 / math.prod(size))
        means = F.conv2d(F.pad(x, beyond), kernel, None, stride, 0, dilation, x.shape[1])
        return means[:, :, :rows, :columns]
