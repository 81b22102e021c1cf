"""`conv` and `deconv`, the two blocks of all convolutional networks here."""

from torch import nn


def conv(
    inputs: int,
    outputs: int,
    *,
    kernel_size: int = 3,
    stride: int | tuple[int, int] = 2,
    norm: bool = False,
    act: bool = True,
) -> nn.Sequential:
    """Convolve: `[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]`.

    The padding is `kernel_size // 2`, so the sizes hold for odd kernels. With `norm` there is a
    batch norm, and the convolution has no bias.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=not norm)
    ]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if act:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def deconv(
    inputs: int, outputs: int, *, kernel_size: int = 3, norm: bool = False, act: bool = True
) -> nn.Sequential:
    """Repeat each pixel 2x2, then convolve: `[B, inputs, H, W] -> [B, outputs, 2H, 2W]`.

    Unlike a transposed convolution of stride 2 it causes no checkerboard pattern (Odena et al.
    2016, https://distill.pub/2016/deconv-checkerboard).
    """
    block = conv(inputs, outputs, kernel_size=kernel_size, stride=1, norm=norm, act=act)
    return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), *block)
