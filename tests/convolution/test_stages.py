"""A plain CNN comes apart into convolutions that make the same numbers."""

import pytest
import torch
from torch import nn

from twinloop.convolution.chain import output_of
from twinloop.convolution.stages import stages_of
from twinloop.models import LessonClassifier, SequentialClassifier


def test_stages_compute_the_activations_of_the_model() -> None:
    model = LessonClassifier((3, 20, 12), 4)
    image = torch.rand(3, 20, 12)
    stages = stages_of(model, image)
    assert [stage.name for stage in stages] == [f"conv{n}" for n in range(1, 6)]
    assert [stage.relu for stage in stages] == [True] * 4 + [False]
    for stage in stages:
        expected = output_of(model, image[None], stage.layer)[0].double()
        torch.testing.assert_close(stage.activations, expected, atol=1e-6, rtol=1e-5)
    assert model.training


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (SequentialClassifier((1, 8, 8), 3, widths=(2, 2)), "layers.0.1 is BatchNorm2d"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2)), "0 is Conv2d"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same")), "0 is Conv2d"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 8)), "0 is ReLU"),
        (nn.Sequential(nn.Conv2d(1, 2, 7)), r"ends in \(2, 2, 2\); it must end in one value"),
        (nn.Sequential(nn.Flatten()), "must end in one value per class"),
    ],
)
def test_a_network_that_is_no_plain_chain_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages_of(model, torch.zeros(1, 8, 8))


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 1, 8, 8\); it must be one"):
        stages_of(nn.Conv2d(1, 2, 8), torch.zeros(1, 1, 8, 8))
