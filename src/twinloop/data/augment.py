"""Shift, flip and erase, for a whole batch at once, wherever the batch lives."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.data.split import generator
from twinloop.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image that leave its class as it is.

    `shift` moves it by up to that many pixels each way (the gap is black), `flip` mirrors half
    of the images left to right, `erase` blackens a square of that many pixels a side.
    """

    shift: int = 0
    flip: bool = False
    erase: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "erase"):
            if getattr(self, name) < 0:
                raise UserError(f"data.augmentation.{name} is {getattr(self, name)}; 0 is off")

    def draws(self, images: int, seed: int, epoch: int) -> Tensor:
        """The random numbers of one epoch, uniform in [0, 1): `[images, 5]`.

        Row i belongs to the i-th image of the epoch, whatever the batch size.
        """
        return torch.rand(images, 5, generator=generator(seed, epoch, 1))

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change `images [B, C, H, W]` by `draws [B, 5]`, on the device of both.

        Raises:
            UserError: the square to erase does not fit into an image.
        """
        batch, channels, height, width = images.shape
        if self.erase > min(height, width):
            raise UserError(
                f"data.augmentation.erase is {self.erase}, more than images of "
                f"{height}x{width} have"
            )
        if self.shift or self.flip:
            steps = 2 * self.shift + 1
            down, right = (draws[:, :2] * steps).long().unbind(1)
            x = torch.arange(width, device=images.device).expand(batch, width)
            if self.flip:
                x = torch.where(draws[:, 2:3] < 0.5, width - 1 - x, x)
            x = x + right[:, None]
            y = torch.arange(height, device=images.device) + down[:, None]
            padded = F.pad(images, (self.shift,) * 4)
            places = y[:, :, None] * padded.shape[3] + x[:, None, :]
            places = places.flatten(1)[:, None].expand(-1, channels, -1)
            images = padded.flatten(2).gather(2, places).view(batch, channels, height, width)
        if self.erase:
            top = (draws[:, 3, None] * (height - self.erase + 1)).long()
            left = (draws[:, 4, None] * (width - self.erase + 1)).long()
            y = torch.arange(height, device=images.device) - top
            x = torch.arange(width, device=images.device) - left
            inside_y = (y >= 0) & (y < self.erase)
            inside_x = (x >= 0) & (x < self.erase)
            images = images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0)
        return images
