"""Convolutional autoencoders: convolutions down to a latent code, upsampling back to an image."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from twinloop.models.contract import MakesClassifier, create
from twinloop.models.layers import conv, conv_transpose, deconv, dense


class Autoencoder(nn.Module):
    """The base of both autoencoders: `forward` is `decoder(encoder(x))`."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def encode(self, x: Tensor) -> Tensor:
        """Image to code: `[B, C, H, W] -> [B, *code shape]`, pixels in [0, 1]."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Code to image: `[B, *code shape] -> [B, C, H, W]`, pixels in [0, 1]."""
        image: Tensor = self.decoder(code)
        return image

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct: `[B, C, H, W] -> [B, C, H, W]`, pixels in [0, 1]."""
        return self.decode(self.encode(x))


class MakesAutoencoder(Protocol):
    """A class of autoencoders, or a function that returns one."""

    def __call__(self, *, image_shape: tuple[int, int, int]) -> Autoencoder: ...


class LessonAutoencoder(Autoencoder):
    """The lesson's: pad to 32, two convs, two deconvs, crop, sigmoid; a latent code of 4x8x8.

    Args:
        image_shape: Channels, height, width; padded to the next power of two, at least 4.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        pad = _pad_to(height, _power_of_two(height), width, _power_of_two(width))
        self.encoder = nn.Sequential(
            nn.ZeroPad2d(pad),  # 32x32
            conv(channels, 2),  # 16x16
            conv(2, 4),  # 8x8
        )
        self.decoder = nn.Sequential(
            deconv(4, 2),  # 16x16
            deconv(2, channels, act=False),  # 32x32
            nn.ZeroPad2d(tuple(-side for side in pad)),  # type: ignore[arg-type]  # 28x28
            nn.Sigmoid(),
        )


class BottleneckAutoencoder(Autoencoder):
    """Convs down to a hidden layer and a latent code, and back up; all but the ends batch-normed.

    Kernels of 4x4 cover each pixel equally often at stride 2, so that transposed convolutions leave
    no checkerboard pattern (Odena et al. 2016). The last convolution makes the 2x2 pixels of each
    position as channels (Shi et al. 2016, arXiv:1609.05158): on a CPU three times as fast as a
    transposed one, whose output has a single channel.

    Args:
        image_shape: Channels, height, width; padded to a multiple of 2 ** len(widths).
        code_size: Dimension of the latent code.
        widths: Channels after each conv of the encoder; reversed in the decoder.
        hidden: Size of the fully connected layer on either side of the code.
        encoder: Another encoder, as a class of classifiers, whose classes are the code.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        code_size: int = 32,
        widths: Sequence[int] = (16, 32),
        hidden: int = 256,
        encoder: MakesClassifier | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        step = 2 ** len(widths)
        rows, columns = -(-height // step), -(-width // step)  # 7x7 of a 28x28 image
        pad = _pad_to(height, rows * step, width, columns * step)
        deepest = widths[-1] * rows * columns
        down = pairwise([channels, *widths])
        up = pairwise(widths[::-1])
        layers: list[nn.Module]
        if encoder:
            layers = [create(encoder, image_shape=image_shape, classes=code_size)]
        else:
            convs = (conv(inputs, outputs, kernel_size=4, norm=True) for inputs, outputs in down)
            layers = [nn.ZeroPad2d(pad), *convs, nn.Flatten()]  # 28x28, 14x14 and 7x7, 32 * 7 * 7
            layers += [dense(deepest, hidden), nn.Linear(hidden, code_size)]
        self.encoder = nn.Sequential(*layers)
        self.decoder = nn.Sequential(
            dense(code_size, hidden),
            dense(hidden, deepest),
            nn.Unflatten(1, (widths[-1], rows, columns)),  # 7x7
            *(conv_transpose(inputs, outputs, norm=True) for inputs, outputs in up),  # 14x14
            conv(widths[0], 4 * channels, stride=1, act=False),
            nn.PixelShuffle(2),  # 28x28
            nn.ZeroPad2d(tuple(-side for side in pad)),  # type: ignore[arg-type]
            nn.Sigmoid(),
        )


def _power_of_two(size: int) -> int:
    return max(4, 1 << (size - 1).bit_length())


def _pad_to(
    height: int, padded_height: int, width: int, padded_width: int
) -> tuple[int, int, int, int]:
    """Zeros to add left, right, top and bottom; an odd one is added right and at the bottom."""
    across, down = padded_width - width, padded_height - height
    return across // 2, across - across // 2, down // 2, down - down // 2
