"""The multi-layer perceptron."""

import math

from torch import Tensor, nn


class MLP(nn.Module):
    """A network with one hidden layer on flattened pixels.

    Args:
        image_shape: Channels, height, width of an image.
        classes: Number of logits.
        hidden: Width of the hidden layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, hidden: int = 50) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels to logits."""
        logits: Tensor = self.layers(x)
        return logits
