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
                f"data.augmentation.erase is {self.erase}, larger than images of {height}x{width}"
            )
        if self.shift or self.flip:
            images = self._shift_and_flip(images, *random[:, :3].T[:, :, None])
        return self._erase(images, *random[:, 3:].T[:, :, None]) if self.erase else images

    def _shift_and_flip(self, images: Tensor, down: Tensor, right: Tensor, flip: Tensor) -> Tensor:
        """Gather every pixel from the padded image; random values `[B, 1]` each."""
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

    def _erase(self, images: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Set a square inside of every image to black; random values `[B, 1]` each."""

        def inside(size: int, start: Tensor) -> Tensor:
            first = (start * (size - self.erase + 1)).long()
            pixel = torch.arange(size, device=images.device)
            return (pixel >= first) & (pixel < first + self.erase)

        rows, columns = inside(images.shape[2], top), inside(images.shape[3], left)
        return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)
