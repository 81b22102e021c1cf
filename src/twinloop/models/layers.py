"""`conv` and `deconv`, the two blocks of every convolutional network here."""

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
    """Convolve, and halve the size: `[B, inputs, H, W] -> [B, outputs, ceil(H/2), ceil(W/2)]`.

    The padding of `kernel_size // 2` keeps the size at stride 1, for odd kernels. With `norm`
    the bias is left to the batch norm.
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

    Unlike a transposed convolution of stride 2 it gives no checkerboard (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard).
    """
    block = conv(inputs, outputs, kernel_size=kernel_size, stride=1, norm=norm, act=act)
    return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), *block)
