"""Kernels drawn by hand, and what they find in a picture.

A kernel of edges answers where the picture is bright under its positive numbers and dark under
its negative ones. The first six are the lesson's.
"""

import torch
from torch import Tensor

from twinloop.convolution.conv2d import conv2d_im2col
from twinloop.convolution.im2col import Padding

TOP_EDGE = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
"""`[3, 3]`: bright below dark, the upper edge of a bright thing."""
BOTTOM_EDGE = TOP_EDGE.flipud()
"""`[3, 3]`: dark below bright, the lower edge of a bright thing."""
LEFT_EDGE = torch.tensor([[-1.0, 1, 0], [-1, 1, 0], [-1, 1, 0]])
"""`[3, 3]`: bright right of dark, the left edge of a bright thing."""
RIGHT_EDGE = LEFT_EDGE.fliplr()
"""`[3, 3]`: dark right of bright, the right edge of a bright thing."""
RISING_DIAGONAL = torch.tensor([[0.0, -1, 1], [-1, 1, 0], [1, 0, 0]])
"""`[3, 3]`: a bright line from lower left to upper right, dark above it."""
FALLING_DIAGONAL = torch.tensor([[1.0, -1, 0], [0, 1, -1], [0, 0, 1]])
"""`[3, 3]`: a bright line from upper left to lower right, dark above it."""
SOBEL_X = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
"""`[3, 3]`: 8 times the slope to the right (Sobel & Feldman 1968); the middle row counts twice."""
SOBEL_Y = SOBEL_X.T
"""`[3, 3]`: 8 times the slope downwards."""
BLUR = torch.full((3, 3), 1 / 9)
"""`[3, 3]`: the mean of a pixel and its eight neighbours; adds up to 1, so brightness stays."""
SHARPEN = torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])
"""`[3, 3]`: the pixel less `LAPLACIAN`: what differs from its surroundings differs more."""
LAPLACIAN = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
"""`[3, 3]`: the sum of both second derivatives: how far the four neighbours lie above a pixel."""

KERNELS = {
    "top edge": TOP_EDGE,
    "bottom edge": BOTTOM_EDGE,
    "left edge": LEFT_EDGE,
    "right edge": RIGHT_EDGE,
    "rising diagonal": RISING_DIAGONAL,
    "falling diagonal": FALLING_DIAGONAL,
    "sobel x": SOBEL_X,
    "sobel y": SOBEL_Y,
    "blur": BLUR,
    "sharpen": SHARPEN,
    "laplacian": LAPLACIAN,
}
"""All of them by name."""


def apply_kernel(images: Tensor, kernel: Tensor, *, padding: Padding = 0) -> Tensor:
    """Put one kernel over every channel by itself: `[..., H, W], [kh, kw] -> [..., H', W']`.

    Takes one picture `[H, W]`, one with channels `[C, H, W]`, or a batch `[B, C, H, W]`, grey or
    RGB, of pixels in any float type.

    Raises:
        ValueError: a picture or kernel of another number of sizes, or a kernel larger than the
            padded picture.
    """
    if images.ndim not in (2, 3, 4) or kernel.ndim != 2:
        raise ValueError(
            f"images {tuple(images.shape)} and kernel {tuple(kernel.shape)}; they must be "
            "[H, W], [C, H, W] or [B, C, H, W], and [kh, kw]"
        )
    # To a kernel that mixes no channels, every channel is a picture of its own.
    planes = images.reshape(-1, 1, *images.shape[-2:])
    found = conv2d_im2col(planes, kernel.to(images)[None, None], padding=padding)
    return found.reshape(*images.shape[:-2], *found.shape[-2:])
