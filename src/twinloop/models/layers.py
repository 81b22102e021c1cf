"""The blocks of the networks here: `conv`, `deconv`, `conv_transpose`, and `dense`."""

from collections.abc import Callable

from torch import nn

Norm = bool | Callable[[int], nn.Module]
"""Whether to normalise batches, or what makes another norm of a number of channels."""
Act = bool | Callable[[], nn.Module]
"""Whether to end in a ReLU, or what makes another activation."""


def conv(
    inputs: int,
    outputs: int,
    *,
    kernel_size: int = 3,
    stride: int | tuple[int, int] = 2,
    norm: Norm = False,
    act: Act = True,
) -> nn.Sequential:
    """Convolve: `[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]`.

    The padding of `(kernel_size - 1) // 2` keeps the size at stride 1 for odd kernels; with an even
    kernel and stride 2 an odd size is rounded down. With a `norm`, which subtracts the mean, the
    convolution has no bias.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel_size: Height and width of the kernel.
        stride: Pixels from one window to the next.
        norm: `True` for batch norm, or a class such as `nn.InstanceNorm2d`.
        act: `True` for ReLU, or a class such as `nn.LeakyReLU`.
    """
    padding = (kernel_size - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=not norm)
    return _block(convolution, outputs, norm, act)


def deconv(
    inputs: int, outputs: int, *, kernel_size: int = 3, norm: Norm = False, act: Act = True
) -> nn.Sequential:
    """Repeat each pixel 2x2, then convolve: `[B, inputs, H, W] -> [B, outputs, 2H, 2W]`.

    Unlike a transposed convolution of stride 2 it causes no checkerboard pattern (Odena et al.
    2016, https://distill.pub/2016/deconv-checkerboard).
    """
    block = conv(inputs, outputs, kernel_size=kernel_size, stride=1, norm=norm, act=act)
    return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), *block)


def conv_transpose(
    inputs: int, outputs: int, *, norm: Norm = False, act: Act = True
) -> nn.Sequential:
    """Convolve transposed, by 4x4 and stride 2: `[B, inputs, H, W] -> [B, outputs, 2H, 2W]`.

    A stride that divides the kernel's size causes no checkerboard pattern, and less than half of
    the operations of `deconv`.
    """
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1, bias=not norm)
    return _block(convolution, outputs, norm, act)


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Connect fully, normalise batches, and rectify: `[B, inputs] -> [B, outputs]`."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())


def _block(convolution: nn.Module, outputs: int, norm: Norm, act: Act) -> nn.Sequential:
    layers = [convolution]
    if norm:
        layers.append(nn.BatchNorm2d(outputs) if norm is True else norm(outputs))
    if act:
        layers.append(nn.ReLU() if act is True else act())
    return nn.Sequential(*layers)
