"""Kernels find what their names say."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twinloop.convolution import kernels
from twinloop.convolution.kernels import KERNELS, apply_kernel


@pytest.fixture(scope="module")
def square() -> Tensor:
    """A bright square of 4x4 in the middle of a dark image of 10x10."""
    image = torch.zeros(10, 10)
    image[3:7, 3:7] = 1
    return image


def test_the_kernels_of_the_lesson() -> None:
    assert kernels.TOP_EDGE.tolist() == [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]
    assert kernels.LEFT_EDGE.tolist() == [[-1, 1, 0], [-1, 1, 0], [-1, 1, 0]]
    assert kernels.RISING_DIAGONAL.tolist() == [[0, -1, 1], [-1, 1, 0], [1, 0, 0]]
    assert kernels.FALLING_DIAGONAL.tolist() == [[1, -1, 0], [0, 1, -1], [0, 0, 1]]


@pytest.mark.parametrize("name", KERNELS)
def test_a_plain_area_has_no_edges_and_keeps_its_brightness(name: str) -> None:
    ones = ("rising diagonal", "falling diagonal", "blur", "sharpen")
    expected = torch.full((3, 3), float(name in ones))
    torch.testing.assert_close(apply_kernel(torch.ones(5, 5), KERNELS[name]), expected)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [("top edge", 2, 5), ("bottom edge", 7, 5), ("left edge", 5, 3), ("right edge", 5, 6)],
)
def test_an_edge_is_found_where_it_is(square: Tensor, name: str, row: int, column: int) -> None:
    found = apply_kernel(square, KERNELS[name], padding=1)
    assert found[row, column] == found.max() == 3


def test_a_diagonal_answers_to_its_own_direction() -> None:
    falling = torch.eye(9)
    rising = falling.fliplr()
    for name, own, other in [
        ("falling diagonal", falling, rising),
        ("rising diagonal", rising, falling),
    ]:
        centre = (slice(2, 5), slice(2, 5))
        assert apply_kernel(own, KERNELS[name])[centre].max() == 3
        assert apply_kernel(other, KERNELS[name])[centre].max() < 3


def test_sobel_is_8_times_the_slope() -> None:
    slope = torch.arange(6.0).expand(6, 6) * 0.25
    assert torch.equal(apply_kernel(slope, kernels.SOBEL_X), torch.full((4, 4), 2.0))
    assert torch.equal(apply_kernel(slope, kernels.SOBEL_Y), torch.zeros(4, 4))


def test_the_laplacian_of_a_parabola_is_its_second_derivative() -> None:
    parabola = torch.arange(6.0).square().expand(6, 6)
    assert torch.equal(apply_kernel(parabola, kernels.LAPLACIAN), torch.full((4, 4), 2.0))


@pytest.mark.parametrize("shape", [(7, 6), (3, 7, 6), (2, 3, 7, 6)])
def test_one_image_or_a_batch_in_grey_or_rgb(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 9, shape).double()
    found = apply_kernel(images, kernels.SOBEL_X, padding=1)
    planes = images.reshape(-1, 1, 7, 6)
    expected = F.conv2d(planes, kernels.SOBEL_X.double()[None, None], padding=1).reshape(shape)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("images", "kernel", "message"),
    [
        (torch.zeros(5), torch.zeros(3, 3), r"images \(5,\)"),
        (torch.zeros(5, 5), torch.zeros(1, 3, 3), r"kernel \(1, 3, 3\)"),
        (torch.zeros(2, 2), torch.zeros(3, 3), "kernel=3 with dilation=1 spans 3 pixels"),
    ],
)
def test_invalid_arguments_are_refused(images: Tensor, kernel: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_kernel(images, kernel)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_do_not_wrap_round(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8)).to(dtype)
    for kernel in KERNELS.values():
        found = apply_kernel(images, kernel)
        assert torch.equal(found, apply_kernel(images.float(), kernel))
        assert found.dtype == torch.float32
