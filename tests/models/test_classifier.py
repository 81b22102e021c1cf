"""The sequential classifiers: parameters, sizes, and the lesson's network written out."""

import pytest
import torch
from torch import nn

from twinloop.models import LessonClassifier, SequentialClassifier

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 27, 19), (1, 64, 50)]


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_images_become_logits(shape: tuple[int, int, int]) -> None:
    images = torch.rand(2, *shape)
    assert LessonClassifier(shape, 7)(images).shape == (2, 7)
    assert SequentialClassifier(shape, 7, widths=(4, 8, 8))(images).shape == (2, 7)


def test_the_lessons_classifier_is_the_lessons() -> None:
    torch.manual_seed(1)
    lesson = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU()),  # 14x14
        *(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU()),  # 7x7
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),  # 4x4
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()),  # 2x2
        nn.Conv2d(16, 10, 3, stride=2, padding=1),  # 1x1
        nn.Flatten(),
    )
    torch.manual_seed(1)
    network = LessonClassifier((1, 28, 28), 10)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(network(images), lesson(images))
    assert parameters(network) == 5_274


def test_a_layer_for_each_halving_over_32_pixels() -> None:
    assert len(LessonClassifier((1, 32, 32), 10).layers) == 5 + 1
    assert len(LessonClassifier((1, 33, 8), 10).layers) == 6 + 1
    assert len(LessonClassifier((1, 8, 65), 10).layers) == 7 + 1


def test_a_side_of_one_pixel_is_not_halved() -> None:
    strides = [
        module.stride
        for module in LessonClassifier((1, 8, 3), 10).modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert strides == [(2, 2), (2, 2), (2, 1), (1, 1), (1, 1)]


def test_a_gradient_in_bfloat16_has_no_uninitialised_memory() -> None:
    images, gradients = torch.rand(5, 1, 8, 8), []
    for before in (1e30, float("nan")):
        torch.manual_seed(1)
        network = LessonClassifier((1, 8, 8), 10)
        # Freed at once, so it lies where the backward pass takes its memory from.
        [torch.full((2**size,), before) for size in range(4, 18) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(images).square().sum()
        loss.backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_the_sequential_classifiers_parameters() -> None:
    # A convolution without bias and a norm of two values a channel, then a linear layer.
    expected = (1 * 9 * 2 + 4) + (2 * 9 * 3 + 6) + (3 * 9 * 3 + 6) + (3 * 10 + 10)
    assert parameters(SequentialClassifier((1, 28, 28), 10, widths=(2, 3))) == expected


def test_dropout_is_off_in_evaluation() -> None:
    network = SequentialClassifier((1, 8, 8), 3, widths=(4, 8), dropout=0.5).eval()
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(network(images), network(images))
    network.layers[-2].train()
    assert not torch.equal(network(images), network(images))
