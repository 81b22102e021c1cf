"""Autoencoders: sizes, parameters, padding and cropping, and one step after the other."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from twinloop.models import Autoencoder, BottleneckAutoencoder, LessonAutoencoder

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 27, 19), (1, 1, 5)]


def small(shape: tuple[int, int, int]) -> BottleneckAutoencoder:
    """A bottleneck that is quick to make."""
    return BottleneckAutoencoder(shape, code_size=6, widths=(4, 8))


NETWORKS = {"lesson": LessonAutoencoder, "bottleneck": small}


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_comes_out_in_its_shape_with_pixels_from_0_to_1(
    network: Callable[[tuple[int, int, int]], Autoencoder], shape: tuple[int, int, int]
) -> None:
    output = network(shape)(torch.rand(2, *shape))
    assert output.shape == (2, *shape)
    assert 0 < output.min() < output.max() < 1


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_forward_encodes_and_then_decodes(
    network: Callable[[tuple[int, int, int]], Autoencoder],
) -> None:
    autoencoder = network((1, 28, 28)).eval()
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(autoencoder(images), autoencoder.decode(autoencoder.encode(images)))


@pytest.mark.parametrize(
    ("shape", "code"),
    [((1, 28, 28), (4, 8, 8)), ((3, 8, 8), (4, 2, 2)), ((1, 33, 20), (4, 16, 8)),
     ((1, 2, 2), (4, 1, 1))],
)  # fmt: skip
def test_the_lessons_code_is_a_quarter_of_the_next_power_of_two(
    shape: tuple[int, int, int], code: tuple[int, int, int]
) -> None:
    assert LessonAutoencoder(shape).encode(torch.zeros(2, *shape)).shape == (2, *code)


def test_the_lessons_autoencoder_is_the_lessons() -> None:
    torch.manual_seed(1)
    lesson = nn.Sequential(
        nn.ZeroPad2d(2),  # 32x32
        *(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU()),  # 16x16
        *(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU()),  # 8x8
        *(nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1), nn.ReLU()),
        *(nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(2, 1, 3, padding=1)),  # 32x32
        nn.ZeroPad2d(-2),  # 28x28
        nn.Sigmoid(),
    )
    torch.manual_seed(1)
    network = LessonAutoencoder((1, 28, 28))
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(network(images), lesson(images))
    assert parameters(network) == (9 * 2 + 2) + (18 * 4 + 4) + (36 * 2 + 2) + (18 * 1 + 1)


def test_the_bottlenecks_parameters() -> None:
    network = BottleneckAutoencoder((1, 7, 8), code_size=5, widths=(2, 3), hidden=6)
    # 7x8 is padded to 8x8, and two halvings leave 2x2 pixels of 3 channels: 12 values.
    encoder = (1 * 16 * 2 + 4) + (2 * 16 * 3 + 6) + (12 * 6 + 12) + (6 * 5 + 5)
    decoder = (5 * 6 + 12) + (6 * 12 + 24) + (3 * 16 * 2 + 4) + (2 * 9 * 4 + 4)
    assert parameters(network.encoder) == encoder
    assert parameters(network.decoder) == decoder
    assert network.encode(torch.zeros(2, 1, 7, 8)).shape == (2, 5)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_crop_removes_the_padding(
    network: Callable[[tuple[int, int, int]], Autoencoder],
) -> None:
    autoencoder = network((2, 5, 6))
    image = torch.rand(1, 2, 5, 6)
    padded = autoencoder.encoder[0](image)
    assert padded.shape == (1, 2, 8, 8)
    assert padded.count_nonzero() == image.count_nonzero() == image.numel()
    assert torch.equal(autoencoder.decoder[-2](padded), image)
