"""Random changes of whole batches, on any device: shift, flip and erasing, or anybody's modules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.data.split import generator, seeded
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


class Transforms:
    """Modules that change a batch of images, one after the other, as an augmentation.

    Each takes and returns float32 `[B, C, H, W]` in [0, 1], such as torchvision's v2 transforms. It
    may draw from the global generators of torch, NumPy and Python, which are seeded for the batch
    and restored afterwards, so that the random values of the network stay as they are.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.random_values = Augmentation().random_values

    def __call__(self, images: Tensor, random: Tensor) -> Tensor:
        """Change bytes `images [B, C, H, W]`, seeded by the first row of `random [B, 5]`.

        Raises:
            UserError: a module returns anything but images of the same shape.
        """
        images = as_floats(images)
        seeds: list[int] = (random[0] * 2**24).long().tolist()
        with torch.no_grad(), seeded(*seeds, cuda=images.is_cuda):
            for module in self.modules:
                changed = module.to(images.device)(images)
                if not isinstance(changed, Tensor) or changed.shape != images.shape:
                    got = list(getattr(changed, "shape", [type(changed).__name__]))
                    raise UserError(
                        f"data.augmentation: {type(module).__name__} made {got} of images of shape "
                        f"{list(images.shape)}, which has to stay"
                    )
                images = changed
        return images


def as_augmentation(
    given: Augmentation | nn.Module | list[nn.Module] | None,
) -> Augmentation | Transforms | None:
    """Modules as an augmentation."""
    if isinstance(given, nn.Module | list):
        return Transforms(given if isinstance(given, list) else [given])
    return given


def as_floats(pixels: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]; other tensors as they are."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def augmented(
    augmentation: Augmentation | Transforms, images: Tensor, targets: Tensor, random: Tensor
) -> tuple[Tensor, Tensor]:
    """Augment images, and with the same random values images that are their targets.

    Raises:
        UserError: those are of another size, or are to be changed by modules.
    """
    if targets.ndim < 4:
        return augmentation(images, random), targets
    if isinstance(augmentation, Transforms) or images.shape[2:] != targets.shape[2:]:
        raise UserError(
            "data.augmentation: where targets are images, only shift, flip and erase change both, "
            "and only if they have the size of the images; unset it"
        )
    both = augmentation(torch.cat([images, targets], 1), random)
    return both[:, : images.shape[1]], both[:, images.shape[1] :]
