"""`conv` and `deconv`, the two blocks of all convolutional networks here."""

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

    The padding of `kernel_size // 2` keeps the size at stride 1, for odd kernels. With a `norm`,
    which subtracts the mean, the convolution has no bias.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel_size: Height and width of the kernel.
        stride: Pixels from one window to the next.
        norm: `True` for batch norm, or a class such as `nn.InstanceNorm2d`.
        act: `True` for ReLU, or a class such as `nn.LeakyReLU`.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=not norm)
    ]
    if norm:
        layers.append(nn.BatchNorm2d(outputs) if norm is True else norm(outputs))
    if act:
        layers.append(nn.ReLU() if act is True else act())
    return nn.Sequential(*layers)


def deconv(
    inputs: int, outputs: int, *, kernel_size: int = 3, norm: Norm = False, act: Act = True
) -> nn.Sequential:
    """Repeat each pixel 2x2, then convolve: `[B, inputs, H, W] -> [B, outputs, 2H, 2W]`.

    Unlike a transposed convolution of stride 2 it causes no checkerboard pattern (Odena et al.
    2016, https://distill.pub/2016/deconv-checkerboard).
    """
    block = conv(inputs, outputs, kernel_size=kernel_size, stride=1, norm=norm, act=act)
    return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), *block)
