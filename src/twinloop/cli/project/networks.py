"""Networks of this project; an experiment names them `networks.Small`."""

from torch import Tensor, nn


class Small(nn.Module):
    """A convolution, averaged over the image, and logits: `[B, C, H, W] -> [B, classes]`."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(image_shape[0], width, 3)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels to logits."""
        logits: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return logits
