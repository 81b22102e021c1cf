"""Random shift, flip and erasing of whole batches, on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.data.split import generator
from twinloop.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        shift: Largest shift in pixels, in each direction; the gap is filled with black.
        flip: Mirror half of the images left to right.
        erase: Side in pixels of a square that is set to black.
    """

    shift: int = 0
    flip: bool = False
    erase: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "erase"):
            if getattr(self, name) < 0:
                raise UserError(f"data.augmentation.{name} is {getattr(self, name)}; 0 is off")

    def random_values(self, images: int, seed: int, epoch: int) -> Tensor:
        """The random values of an epoch, `[images, 5]`, uniform in [0, 1).

        Row i belongs to the i-th image of the epoch, whatever the batch size.
        """
        return torch.rand(images, 5, generator=generator(seed, epoch, 1))

    def __call__(self, images: Tensor, random: Tensor) -> Tensor:
        """Augment `images [B, C, H, W]` by random values `[B, 5]` on the same device.

        Raises:
            UserError: the square to erase is larger than the images.
        """
        height, width = images.shape[2:]
        if self.erase > min(height, width):
            raise UserError(
                f"data.augmentation.erase is {self.erase}, more than images of "
                f"{height}x{width} have"
            )
        if self.shift or self.flip:
            images = self._shift_and_flip(images, *random[:, :3].T[:, :, None])
        if self.erase:
            top = (random[:, 3, None] * (height - self.erase + 1)).long()
            left = (random[:, 4, None] * (width - self.erase + 1)).long()
            y = torch.arange(height, device=images.device) - top
            x = torch.arange(width, device=images.device) - left
            inside_y = (y >= 0) & (y < self.erase)
            inside_x = (x >= 0) & (x < self.erase)
            images = images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0)
        return images

    def _shift_and_flip(self, images: Tensor, down: Tensor, right: Tensor, flip: Tensor) -> Tensor:
        """Gather each pixel from its place in the padded image; random values `[B, 1]` each."""
        channels, height, width = images.shape[1:]
        steps = 2 * self.shift + 1
        x = torch.arange(width, device=images.device).expand(len(images), width)
        if self.flip:
            x = torch.where(flip < 0.5, width - 1 - x, x)
        x = x + (right * steps).long()
        y = torch.arange(height, device=images.device) + (down * steps).long()
        padded = F.pad(images, (self.shift,) * 4)
        sources = y[:, :, None] * padded.shape[3] + x[:, None, :]
        sources = sources.flatten(1)[:, None].expand(-1, channels, -1)
        return padded.flatten(2).gather(2, sources).view_as(images)
