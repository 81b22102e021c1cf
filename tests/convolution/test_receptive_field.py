"""Arithmetic, gradient and brute force find the same pixels."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop import models
from twinloop.convolution.chain import Layer, layers_of, output_of
from twinloop.convolution.receptive_field import by_arithmetic, field_of, spatial_size
from twinloop.convolution.receptive_field_gradient import by_gradient, effective_field

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
    """Set each pixel to NaN in turn, and see whether the activation becomes NaN."""
    channels, height, width = input_shape
    pixels = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    images = pixels.masked_fill(pixels == 1, torch.nan).expand(-1, channels, -1, -1)
    with torch.no_grad():
        output = output_of(model.double(), images, layer)
    model.float()
    activations = output[..., *position] if output.ndim == 4 else output
    return activations.isnan().any(1).view(height, width)


def some_positions(layer: Layer) -> list[tuple[int, int]]:
    """Corners, the middle, and one off the middle."""
    rows, columns = spatial_size(layer.output_shape)
    return sorted(
        {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2), (rows // 3, columns - 1)}
    )


def test_every_model_of_the_project_is_here() -> None:
    others = {"Autoencoder", "Timm", "Torchvision"}  # a base, and networks of libraries
    known = {name for name in vars(models) if name[0].isupper()} - others
    assert {type(model).__name__ for model in MODELS.values()} == known


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_all_ways_agree_on_every_layer_of_every_model(model: nn.Module) -> None:
    shape = (1, 28, 28)
    for layer in layers_of(model, shape):
        for position in some_positions(layer):
            found = by_arithmetic(model, shape, layer.name, position)
            assert torch.equal(found, by_gradient(model, shape, layer.name, position))
    found = by_arithmetic(model, shape, layer.name, position)
    assert torch.equal(found, by_brute_force(model, shape, layer.name, position))


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    """Some layers of every kind that the arithmetic knows, nested."""
    pairs = {most: st.tuples(*[st.integers(1, most)] * 2) for most in (2, 3)}
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride, dilation = draw(pairs[3]), draw(pairs[2]), draw(pairs[2])
        half = (kernel[0] // 2, kernel[1] // 2)
        choices: list[nn.Module] = [
            nn.Conv2d(2, 2, kernel, stride, half, dilation),
            nn.Conv2d(2, 2, kernel, padding="same", dilation=dilation),
            nn.ConvTranspose2d(2, 2, kernel, stride, half, 0, 1, True, dilation),
            nn.MaxPool2d(kernel, stride, half, dilation),
            nn.MaxPool2d(kernel, stride, ceil_mode=True),
            nn.AvgPool2d(kernel, stride),
            nn.Upsample(scale_factor=stride),
            nn.Sequential(nn.Conv2d(2, 8, kernel, padding=half), nn.PixelShuffle(2)),
            nn.ZeroPad2d((2, 1, 0, 3)),
            nn.ZeroPad2d((-1, 0, 1, -1)),
            nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
        ]
        layers.append(draw(st.sampled_from(choices)))
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(*layers))


# PyTorch warns that it copies.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(chains(), st.data())
def test_all_ways_agree_on_any_chain(model: nn.Sequential, data: st.DataObject) -> None:
    shape = (1, 9, 8)
    try:
        layers = layers_of(model, shape)
    except ValueError:  # a kernel larger than what is left
        return
    name = layers[-1].name
    for position in {data.draw(st.sampled_from(some_positions(layers[-1]))) for _ in range(2)}:
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
    middle = layers[-1].output_shape[1] // 2
    masks = [
        by_arithmetic(model, (1, side, side), position=(row, row)) for row in (middle, middle + 1)
    ]
    (first, last), (next_first, next_last) = (
        (int(rows.min()), int(rows.max())) for rows in (mask.any(1).nonzero() for mask in masks)
    )
    assert field.size[0] == last - first + 1
    assert field.jump[0] == next_first - first == next_last - last
    assert field.centre[0] + middle * field.jump[0] == Fraction(first + last, 2)


def test_vgg16_sees_212_pixels() -> None:
    # Known from Araujo et al. 2019 (table 1): 212 pixels and a jump of 32 behind the last pool.
    layers: list[nn.Module] = []
    for repeats in (2, 2, 3, 3, 3):
        layers += [nn.Conv2d(1, 1, 3, padding=1) for _ in range(repeats)] + [nn.MaxPool2d(2)]
    field = field_of(layers_of(nn.Sequential(*layers), (1, 64, 64)))
    assert field.size == (212, 212)
    assert field.jump == (Fraction(32), Fraction(32))


class Residual(nn.Module):
    """A dilated convolution with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=2, dilation=2)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(F.relu(x + self.conv(x)))
        return out


def test_the_gradient_follows_branches_and_the_arithmetic_refuses_them() -> None:
    model, shape = Residual(), (1, 11, 11)
    found = by_gradient(model, shape, position=(5, 5))
    assert torch.equal(found, by_brute_force(model, shape, "pool", (5, 5)))
    with pytest.raises(ValueError, match="pool is not fed by the layer before it"):
        by_arithmetic(model, shape, position=(5, 5))


def test_the_gradient_passes_dead_units_and_leaves_the_weights_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2))
    weights = [weight.fill_(-1) for weight in model.state_dict().values()]
    assert int(by_gradient(model, (1, 6, 6)).sum()) == 16
    assert all(bool((weight == -1).all()) for weight in weights)


def test_the_effective_field_of_a_linear_chain_is_the_kernel_with_itself() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, bias=False) for _ in range(2))).double()
    for weight in model.state_dict().values():
        weight.fill_(1)
    found = effective_field(model, torch.zeros(3, 1, 5, 5, dtype=torch.float64), position=(0, 0))
    line = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    torch.testing.assert_close(found, line[:, None] * line / 9)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Upsample(scale_factor=2, mode="bilinear"), "which the arithmetic does not know"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.AdaptiveAvgPool2d(5), "which the arithmetic does not know"),
        (nn.Flatten(2), "which the arithmetic does not know"),
    ],
)
def test_the_arithmetic_refuses_layers_that_it_does_not_know(
    model: nn.Module, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        by_arithmetic(nn.Sequential(model), (1, 6, 6))


def test_invalid_arguments_are_refused() -> None:
    model, shape = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Softmax(1)), (1, 6, 6)
    with pytest.raises(ValueError, match=r"position=\(4, 0\) is outside of an output of 4x4"):
        by_arithmetic(model[:1], shape, position=(4, 0))
    with pytest.raises(ValueError, match=r"position=\(0, -1\) is outside of an output of 4x4"):
        by_gradient(model[:1], shape, position=(0, -1))
    with pytest.raises(ValueError, match="layer='2' did not run; those that did: 0"):
        by_arithmetic(model[:1], shape, "2")
    with pytest.raises(ValueError, match="the model has no layer='2'"):
        by_gradient(model[:1], shape, "2")
    with pytest.raises(ValueError, match="1 is a Softmax, whose gradients cancel"):
        by_gradient(model, shape)
