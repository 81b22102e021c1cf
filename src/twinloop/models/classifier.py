"""Sequential CNN classifiers: the lesson's, and a batch-normalised one."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from twinloop.models.layers import conv


class LessonClassifier(nn.Module):
    """Convolutions of stride 2 until one pixel is left, whose channels are the logits.

    For 28x28 the five layers have 1-4-8-16-16-10 channels and 5,274 parameters. Images of more
    than 32 pixels a side get more layers of the last width. The stride along a side of one pixel is
    1: the output is the same, but with stride 2 the gradient in bfloat16 is uninitialised memory on
    some CPUs.

    Args:
        image_shape: Channels, height, width of an image.
        classes: Number of logits.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        halvings = (max(height, width) - 1).bit_length()
        widths = [channels, 4, 8, 16, 16, *[16] * max(0, halvings - 5), classes]
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=2):
            stride = (min(height, 2), min(width, 2))
            layers.append(conv(inputs, outputs, stride=stride, act=number < len(widths)))
            height, width = (height + 1) // 2, (width + 1) // 2  # 14x14, 7x7, 4x4, 2x2, 1x1
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels to logits."""
        logits: Tensor = self.layers(x)
        return logits


class SequentialClassifier(nn.Module):
    """Batch-normalised convolutions, two per size, then average pooling, dropout and logits.

    Args:
        image_shape: Channels, height, width of an image.
        classes: Number of logits.
        widths: Channels at each size; each entry after the first halves height and width.
        dropout: Probability of zeroing each of the last features in training.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(image_shape[0], widths[0], stride=1, norm=True)]  # 28x28
        for inputs, outputs in pairwise(widths):
            layers.append(conv(inputs, outputs, norm=True))  # 14x14, 7x7
            layers.append(conv(outputs, outputs, stride=1, norm=True))
        self.layers = nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[-1], classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels to logits."""
        logits: Tensor = self.layers(x)
        return logits
