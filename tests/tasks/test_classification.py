"""Loss and metrics of a classifier, counted by hand over a whole split."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Classification

SPEC = DataSpec("pets", "", (1, 2, 2), ("cat", "dog", "eel", "fox"))


class Guess(nn.Module):
    """Logits of an image by its mean: `slope` times the mean, for the class `label`."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, label: int = 3, slope: float = 20.0
    ) -> None:
        super().__init__()
        self.classes, self.label = classes, label
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`."""
        score = self.slope * (x.flatten(1).mean(1) - 0.3)
        return score[:, None] * nn.functional.one_hot(torch.tensor(self.label), self.classes)


def task(spec: DataSpec, **options: float) -> Classification:
    return Classification(Guess, lambda weights: SGD(weights, 0.5), spec, **options)  # type: ignore[arg-type]


def test_the_loss_is_the_cross_entropy_in_nats() -> None:
    classifier = task(SPEC)
    # Shares 1/2, 1/4, 1/8, 1/8: the labels 0 and 2 cost 1 and 3 bits, in the mean 2.
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 2).log()
    loss = classifier.loss(logits, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_labels_are_smoothed_in_training_only() -> None:
    classifier = task(SPEC, label_smoothing=0.4)
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    label = torch.tensor([0])
    # 0.6 on the label and 0.1 on each class: 0.6 * 1 + 0.1 * (1 + 2 + 3 + 3) bits.
    assert classifier.train().loss(logits, label).item() == pytest.approx(1.5 * math.log(2))
    assert classifier.eval().loss(logits, label).item() == pytest.approx(math.log(2))


def test_metrics_of_val_are_those_of_all_images_whatever_the_batches(
    digits: ImageDataModule,
) -> None:
    classifier = task(digits.spec)
    (logged,) = quiet_trainer().validate(classifier, datamodule=digits, verbose=False)

    images = digits.data.train.images[digits.rows["val"]].double() / 255
    labels = digits.data.train.labels[digits.rows["val"]]
    # By hand: the score is the logit of class 3, and every other logit is 0.
    scores = 20 * (images.flatten(1).mean(1) - 0.3)
    guesses = torch.where(scores > 0, 3, 0)
    losses = (scores.exp() + 9).log() - torch.where(labels == 3, scores, 0)
    assert len(labels) % digits.batch_size  # the last batch is a short one
    assert 0 < (guesses == 3).sum() < len(labels)
    assert logged.keys() == {"val/loss", "val/accuracy"}
    assert logged["val/loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx((guesses == labels).double().mean().item())

    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for label, guess in zip(labels.tolist(), guesses.tolist(), strict=True):
        confusion[label, guess] += 1
    assert torch.equal(classifier.last_metrics["val/confusion"], confusion)
    torch.testing.assert_close(
        classifier.last_metrics["val/class_accuracy"],
        (confusion.diagonal() / confusion.sum(1)),
    )


def test_one_step_of_training_goes_down_the_gradient(digits: ImageDataModule) -> None:
    classifier = task(digits.spec)
    images, labels, _ = next(iter(digits.train_dataloader()))
    means = images.double().flatten(1).mean(1) / 255 - 0.3
    chances = (20 * means).exp() / ((20 * means).exp() + 9)
    gradient = ((chances - (labels == 3).double()) * means).mean()
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(classifier, datamodule=digits)
    assert isinstance(classifier.network, Guess)
    assert classifier.network.slope.item() == pytest.approx(20 - 0.5 * gradient.item(), rel=1e-6)


def test_tta_flip_answers_with_the_mean_over_an_image_and_its_mirror_image() -> None:
    def network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))

    task = Classification(network, lambda weights: SGD(weights), SPEC, tta_flip=True).eval()
    images = torch.rand(3, 1, 2, 2)
    once, flipped = task.network(images), task.network(images.flip(3))
    assert torch.equal(task(images), (once + flipped) / 2)
    assert not torch.equal(once, flipped)
    assert torch.equal(task.train()(images), once)


def test_data_without_labels_is_refused() -> None:
    message = "a classifier needs labels, and pets has none; put the images into a folder for each"
    with pytest.raises(UserError, match=message):
        Classification(MLP, lambda weights: SGD(weights), DataSpec("pets", "", (1, 8, 8), ()))
