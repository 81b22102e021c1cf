"""Figures draw what they say, and leave images, networks and generators as they were."""

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twinloop.convolution import figures
from twinloop.convolution.kernels import KERNELS, TOP_EDGE, apply_kernel
from twinloop.models import LessonClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def random_images(channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, channels, 20, 20, generator=generator)


def drawn(figure: "Figure") -> list[Tensor]:
    """Draw a figure, and list the images in it."""
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    arrays = [image.get_array() for axis in figure.axes for image in axis.get_images()]
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


@pytest.mark.slow
def test_the_figure_of_kernels_shows_their_responses_to_rgb() -> None:
    images = random_images(channels=3)
    found = drawn(figures.kernel_responses(images, ["shirt", "coat"]))
    assert len(found) == 2 + len(KERNELS) * 3
    assert torch.equal(found[2], TOP_EDGE)
    # Both images at once, as the figure has it: one alone may be rounded otherwise.
    assert torch.equal(found[3], apply_kernel(images.mean(1), TOP_EDGE)[0])


@pytest.mark.slow
def test_figures_of_im2col_padding_and_upsampling() -> None:
    matrix = figures.im2col_matrix()
    drawn(matrix)
    texts = [text.get_text() for text in matrix.axes[1].texts]
    assert "".join(texts[:8]) == "abefbcfg"
    padding = figures.padding_and_stride()
    drawn(padding)
    assert [axis.get_title().splitlines()[1] for axis in padding.axes] == [
        *("5x5 to 3x3", "5x5 to 5x5", "5x5 to 3x3", "5x5 to 5x5"),
    ]
    odd, even, repeated = drawn(figures.upsamplings())
    inside = slice(2, -2)
    assert set(odd[inside, inside].flatten().tolist()) == {1, 2, 4}
    assert set(even[inside, inside].flatten().tolist()) == {4}
    assert set(repeated[inside, inside].flatten().tolist()) == {9}


@pytest.mark.slow
def test_figures_of_a_network_on_rgb_leave_it_unchanged() -> None:
    images = random_images(channels=3)
    model = LessonClassifier((3, 20, 20), 4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    assert len(drawn(figures.receptive_fields(model, images[0]))) == 2 * 5
    assert len(drawn(figures.learnt_filters(model, images, ["shirt", "coat"]))) == 2 + 4 * 3
    heat = drawn(figures.effective_fields({"one": model, "other": model}, images))
    assert len(heat) == 2 * 5
    assert all(map(torch.equal, heat[:5], heat[5:]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert model.training


def test_the_strongest_patch_is_under_the_strongest_activation() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3, 2, 1), nn.ReLU(), nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 2, 5)
    )
    for weight in model.state_dict().values():
        weight.fill_(weight.ndim == 4)  # biases are 0
    images = torch.zeros(3, 1, 20, 20)
    images[1, 0, 11, 11] = 1
    images[2, 0, 0, 0] = 0.5
    patches = drawn(figures.strongest_patches(model, images, stage_index=1))
    assert [tuple(patch.shape) for patch in patches] == [(7, 7)] * 3
    assert [float(patch.max()) for patch in patches] == [1, 0.5, 0]
    # At the edge the field reaches into the padding.
    assert float(patches[1][3, 3]) == 0.5
