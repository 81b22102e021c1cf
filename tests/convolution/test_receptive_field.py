"""Arithmetic, gradient and brute force find the same pixels."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop import models
from twinloop.convolution.chain import Layer, evaluating, layers_of
from twinloop.convolution.receptive_field import (
    by_arithmetic,
    by_gradient,
    effective,
    field_of,
)

MODELS = {
    "lesson classifier": models.LessonClassifier((1, 28, 28), 10),
    "classifier": models.SequentialClassifier((1, 28, 28), 10, widths=(4, 8, 8)),
    "mlp": models.MLP((1, 28, 28), 10, hidden=7),
    "lesson autoencoder": models.LessonAutoencoder((1, 28, 28)),
    "autoencoder": models.BottleneckAutoencoder((1, 28, 28), code_size=5, widths=(4, 8, 8)),
}
"""Every model of the project, narrow where it can be: width moves no receptive field."""


def by_brute_force(
    model: nn.Module, input_shape: tuple[int, int, int], layer: str, position: tuple[int, int]
) -> Tensor:
    """Make each pixel not a number in turn, and see whether the activation becomes none."""
    channels, height, width = input_shape
    pictures = torch.zeros(height * width, channels, height, width, dtype=torch.float64)
    for pixel, picture in enumerate(pictures):
        picture[:, pixel // width, pixel % width] = torch.nan
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
    with evaluating(model.double()), torch.no_grad():
        model(pictures)
    handle.remove()
    model.float()
    made = kept[-1][..., *position] if kept[-1].ndim == 4 else kept[-1]
    return made.isnan().any(1).view(height, width)


def places(layer: Layer) -> list[tuple[int, int]]:
    """Corners, the middle, and one off the middle."""
    rows, columns = layer.output_shape[1:] if len(layer.output_shape) == 3 else (1, 1)
    return sorted(
        {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2), (rows // 3, columns - 1)}
    )


def test_every_model_of_the_project_is_here() -> None:
    known = {name for name in vars(models) if name[0].isupper()} - {"Autoencoder"}
    assert {type(model).__name__ for model in MODELS.values()} == known


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_all_ways_agree_on_every_layer_of_every_model(model: nn.Module) -> None:
    shape = (1, 28, 28)
    for layer in layers_of(model, shape):
        for position in places(layer):
            found = by_arithmetic(model, shape, layer.name, position)
            assert torch.equal(found, by_gradient(model, shape, layer.name, position))
    found = by_arithmetic(model, shape, layer.name, position)
    assert torch.equal(found, by_brute_force(model, shape, layer.name, position))


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    """Some layers of every kind that the arithmetic knows, nested."""
    number = st.integers(1, 3)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride, dilation = (
            (draw(number), draw(number)),
            (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
            (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        )
        half = (kernel[0] // 2, kernel[1] // 2)
        layers.append(
            draw(
                st.sampled_from(
                    [
                        nn.Conv2d(2, 2, kernel, stride, half, dilation),
                        nn.Conv2d(2, 2, kernel, padding="same", dilation=dilation),
                        nn.ConvTranspose2d(2, 2, kernel, stride, half, 0, 1, True, dilation),
                        nn.MaxPool2d(kernel, stride, half, dilation),
                        nn.MaxPool2d(kernel, stride, ceil_mode=True),
                        nn.AvgPool2d(kernel, stride),
                        nn.Upsample(scale_factor=stride),
                        nn.ZeroPad2d((2, 1, 0, 3)),
                        nn.ZeroPad2d((-1, 0, 1, -1)),
                        nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()),
                        nn.AdaptiveAvgPool2d(1),
                    ]
                )
            )
        )
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(*layers))


# PyTorch says that it copies.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=60)
@given(chains(), st.data())
def test_all_ways_agree_on_any_chain(model: nn.Sequential, data: st.DataObject) -> None:
    shape = (1, 9, 8)
    try:
        layers = layers_of(model, shape)
    except ValueError:  # a kernel larger than what is left
        return
    name = layers[-1].name
    for position in {data.draw(st.sampled_from(places(layers[-1]))) for _ in range(2)}:
        found = by_arithmetic(model, shape, name, position)
        assert torch.equal(found, by_gradient(model, shape, name, position))
        assert torch.equal(found, by_brute_force(model, shape, name, position))


@given(st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=3))
def test_size_jump_and_centre_are_those_of_an_activation_far_from_the_edge(
    convolutions: list[tuple[int, int, int]],
) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 1, kernel, stride, 1, dilation) for kernel, stride, dilation in convolutions)
    )
    side = 120
    layers = layers_of(model, (1, side, side))
    field = field_of(layers)
    rows = layers[-1].output_shape[1]
    seen = [
        by_arithmetic(model, (1, side, side), position=(row, row))
        for row in (rows // 2, rows // 2 + 1)
    ]
    (first, last), (next_first, next_last) = (
        (int(mask.any(1).nonzero()[0]), int(mask.any(1).nonzero()[-1])) for mask in seen
    )
    assert field.size[0] == last - first + 1
    assert field.jump[0] == next_first - first == next_last - last
    assert field.centre[0] + rows // 2 * field.jump[0] == Fraction(first + last, 2)


def test_vgg16_sees_212_pixels() -> None:
    # Known from Araujo et al. 2019 (table 1): 212 pixels and a jump of 32 behind the last pool.
    layers: list[nn.Module] = []
    for repeats in (2, 2, 3, 3, 3):
        layers += [nn.Conv2d(1, 1, 3, padding=1) for _ in range(repeats)] + [nn.MaxPool2d(2)]
    field = field_of(layers_of(nn.Sequential(*layers), (1, 64, 64)))
    assert field.size == (212, 212)
    assert field.jump == (Fraction(32), Fraction(32))


class Residual(nn.Module):
    """A dilated convolution beside a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=2, dilation=2)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(F.relu(x + self.conv(x)))
        return out


def test_the_gradient_follows_branches_and_the_arithmetic_says_that_it_cannot() -> None:
    model, shape = Residual(), (1, 11, 11)
    found = by_gradient(model, shape, position=(5, 5))
    assert torch.equal(found, by_brute_force(model, shape, "pool", (5, 5)))
    with pytest.raises(ValueError, match="pool is not fed by the layer before it"):
        by_arithmetic(model, shape, position=(5, 5))


def test_the_gradient_of_a_trained_network_with_dead_units_is_not_asked() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2))
    before = {name: weight.fill_(-1) for name, weight in model.state_dict().items()}
    assert int(by_gradient(model, (1, 6, 6)).sum()) == 16
    assert all(bool((weight == -1).all()) for weight in before.values())


def test_a_single_pool_is_a_model_too() -> None:
    for pool in (nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(3)):
        assert by_gradient(pool, (1, 6, 6), position=(1, 2)).nonzero().tolist() == [
            [2, 4],
            [2, 5],
            [3, 4],
            [3, 5],
        ]


def test_the_effective_field_of_a_linear_chain_is_the_kernel_with_itself() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, bias=False) for _ in range(2))).double()
    for weight in model.state_dict().values():
        weight.fill_(1)
    found = effective(model, torch.zeros(3, 1, 5, 5, dtype=torch.float64), position=(0, 0))
    line = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    torch.testing.assert_close(found, line[:, None] * line / 9)


def test_the_effective_field_lies_in_the_receptive_field() -> None:
    model = MODELS["lesson classifier"]
    generator = torch.Generator().manual_seed(0)
    found = effective(model, torch.rand(4, 1, 28, 28, generator=generator), "layers.1.1")
    field = by_arithmetic(model, (1, 28, 28), "layers.1.1", (3, 3))
    assert found.max() == 1
    assert torch.equal(found > 0, (found > 0) & field)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Upsample(scale_factor=2, mode="bilinear"), "which the arithmetic does not know"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.AdaptiveAvgPool2d(5), "which the arithmetic does not know"),
        (nn.Linear(6, 6), "which the arithmetic does not know"),
        (nn.Flatten(2), "which the arithmetic does not know"),
    ],
)
def test_what_the_arithmetic_does_not_know_it_says(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_arithmetic(nn.Sequential(model), (1, 6, 6))


def test_other_mistakes_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Softmax(1))
    with pytest.raises(ValueError, match=r"position=\(4, 0\) is outside of an output of 4x4"):
        by_arithmetic(model[:1], (1, 6, 6), position=(4, 0))
    with pytest.raises(ValueError, match=r"position=\(0, -1\) is outside of an output of 4x4"):
        by_gradient(model[:1], (1, 6, 6), position=(0, -1))
    with pytest.raises(ValueError, match="layer='2' did not run; those that did: 0"):
        by_arithmetic(model[:1], (1, 6, 6), "2")
    with pytest.raises(ValueError, match="layer='2' is none of this model"):
        by_gradient(model[:1], (1, 6, 6), "2")
    with pytest.raises(ValueError, match="1 is a Softmax, whose gradients cancel"):
        by_gradient(model, (1, 6, 6))
