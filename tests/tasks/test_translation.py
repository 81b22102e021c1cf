"""Images from images: the target is the data's, whatever noise the input has."""

import pytest
import torch
from torch.optim import SGD

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models import LessonAutoencoder
from twinloop.tasks import ImageToImage

SPEC = DataSpec("pairs", "", (1, 8, 8))


def test_the_target_is_the_other_image() -> None:
    images, targets = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    for noise in (0.0, 0.5):
        task = ImageToImage(LessonAutoencoder, lambda weights: SGD(weights, 0.1), SPEC, noise=noise)
        inputs, target = task.inputs_and_targets((images, targets))
        assert torch.equal(inputs, images) == (noise == 0)
        assert torch.equal(target, targets)
    assert task.loss(images, targets) == (images - targets).square().mean()
    with pytest.raises(UserError, match=r"targets have the shape \[2\]; set data.target to image"):
        task.loss(images, torch.zeros(2))
