"""Hand-written kernels, and their responses to an image.

The response of an edge kernel is large where the image is bright under its positive weights and
dark under its negative ones. The first six are the lesson's.
"""

import torch
from torch import Tensor

from twinloop.convolution.conv2d import conv2d_im2col
from twinloop.convolution.im2col import Padding

TOP_EDGE = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
"""`[3, 3]`: bright below dark, the upper edge of a bright object."""
BOTTOM_EDGE = TOP_EDGE.flipud()
"""`[3, 3]`: dark below bright, the lower edge of a bright object."""
LEFT_EDGE = torch.tensor([[-1.0, 1, 0], [-1, 1, 0], [-1, 1, 0]])
"""`[3, 3]`: bright right of dark, the left edge of a bright object."""
RIGHT_EDGE = LEFT_EDGE.fliplr()
"""`[3, 3]`: dark right of bright, the right edge of a bright object."""
RISING_DIAGONAL = torch.tensor([[0.0, -1, 1], [-1, 1, 0], [1, 0, 0]])
"""`[3, 3]`: a bright line from lower left to upper right, dark above it."""
FALLING_DIAGONAL = torch.tensor([[1.0, -1, 0], [0, 1, -1], [0, 0, 1]])
"""`[3, 3]`: a bright line from upper left to lower right, dark above it."""
SOBEL_X = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
"""`[3, 3]`: 8 times the slope to the right (Sobel & Feldman 1968); the middle row counts twice."""
SOBEL_Y = SOBEL_X.T
"""`[3, 3]`: 8 times the slope downwards."""
BLUR = torch.full((3, 3), 1 / 9)
"""`[3, 3]`: the mean of a pixel and its eight neighbours; sums to 1, so it keeps brightness."""
SHARPEN = torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])
"""`[3, 3]`: the pixel minus `LAPLACIAN`, which increases local contrast."""
LAPLACIAN = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
"""`[3, 3]`: the sum of both second derivatives: the four neighbours minus 4 times the pixel."""

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
"""All kernels by name."""


def apply_kernel(images: Tensor, kernel: Tensor, *, padding: Padding = 0) -> Tensor:
    """Convolve every channel with one kernel: `[..., H, W], [kh, kw] -> [..., H', W']`.

    Takes an image `[H, W]`, one with channels `[C, H, W]`, or a batch `[B, C, H, W]`, grey or
    RGB. Floats keep their type; bytes and other whole numbers, which would wrap round, become
    float32.

    Raises:
        ValueError: another number of dimensions, or a kernel larger than the padded image.
    """
    if images.ndim not in (2, 3, 4) or kernel.ndim != 2:
        raise ValueError(
            f"images {tuple(images.shape)} and kernel {tuple(kernel.shape)}; they must be "
            "[H, W], [C, H, W] or [B, C, H, W], and [kh, kw]"
        )
    images = images if images.is_floating_point() else images.float()
    planes = images.reshape(-1, 1, *images.shape[-2:])  # each channel as an image of its own
    responses = conv2d_im2col(planes, kernel.to(images)[None, None], padding=padding)
    return responses.reshape(*images.shape[:-2], *responses.shape[-2:])
