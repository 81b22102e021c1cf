"""The blocks against PyTorch's own operations, and their sizes."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twinloop.models.layers import conv, conv_transpose, deconv, dense


@pytest.mark.parametrize("size", [28, 32, 8, 7, 1])
def test_conv_halves_and_rounds_up_or_keeps_the_size(size: int) -> None:
    x = torch.zeros(2, 3, size, size + 1)
    assert conv(3, 5)(x).shape == (2, 5, -(-size // 2), -(-(size + 1) // 2))
    assert conv(3, 5, kernel_size=5, stride=1)(x).shape == (2, 5, size, size + 1)


@pytest.mark.parametrize("size", [(4, 4), (7, 3), (1, 1)])
def test_deconv_doubles(size: tuple[int, int]) -> None:
    height, width = size
    assert deconv(3, 5)(torch.zeros(2, 3, *size)).shape == (2, 5, 2 * height, 2 * width)


def test_conv_is_a_convolution_and_a_rectifier() -> None:
    block = conv(2, 3)
    weight, bias = block.parameters()
    x = torch.randn(4, 2, 6, 6)
    expected = F.conv2d(x, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(block(x), expected.clamp(min=0))
    assert (expected < 0).any()
    linear = conv(2, 3, act=False)
    linear.load_state_dict(block.state_dict())
    torch.testing.assert_close(linear(x), expected)


def test_the_norm_takes_the_place_of_the_bias() -> None:
    block = conv(2, 3, norm=True, act=False)
    assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d]
    assert [name for name, _ in block.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    output = block(torch.randn(16, 2, 8, 8))
    torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        output.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-3
    )


def test_deconv_repeats_each_pixel_and_then_convolves() -> None:
    block = deconv(2, 3, act=False)
    weight, bias = block.parameters()
    x = torch.randn(4, 2, 3, 5)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(x), F.conv2d(large, weight, bias, padding=1))


@pytest.mark.parametrize("block", [conv, deconv, conv_transpose])
def test_another_norm_and_activation(block: Any) -> None:
    kinds = [type(layer) for layer in block(3, 4, norm=nn.InstanceNorm2d, act=nn.LeakyReLU)]
    assert kinds[-2:] == [nn.InstanceNorm2d, nn.LeakyReLU]
    two = block(3, 4, norm=partial(nn.GroupNorm, 2), act=partial(nn.LeakyReLU, 0.1))
    assert (two[-2].num_groups, two[-1].negative_slope) == (2, 0.1)
    assert [type(layer) for layer in block(3, 4, norm=True)][-2:] == [nn.BatchNorm2d, nn.ReLU]


def test_conv_transpose_doubles_and_is_the_gradient_of_a_convolution() -> None:
    block = conv_transpose(2, 3, act=False)
    weight, bias = block.parameters()
    x = torch.randn(4, 2, 3, 5)
    output = block(x)
    assert output.shape == (4, 3, 6, 10)
    large = torch.zeros(4, 3, 6, 10, requires_grad=True)
    down = F.conv2d(large, weight, stride=2, padding=1)
    (gradient,) = torch.autograd.grad(down, large, x)
    torch.testing.assert_close(output, gradient + bias.view(3, 1, 1))


def test_a_constant_leaves_no_checkerboard_in_a_transposed_convolution() -> None:
    block = conv_transpose(1, 1, act=False)
    block[0].weight.data.fill_(1.0)  # type: ignore[operator]
    inside = block(torch.ones(1, 1, 4, 4))[..., 1:-1, 1:-1]
    assert inside.unique().numel() == 1


def test_dense_is_a_linear_map_that_is_normalised_and_rectified() -> None:
    block = dense(3, 2)
    x = torch.randn(16, 3)
    linear = x @ block[0].weight.T  # type: ignore[operator]
    deviation = linear.var(0, correction=0).add(1e-5).sqrt()
    torch.testing.assert_close(block(x), ((linear - linear.mean(0)) / deviation).clamp(min=0))
