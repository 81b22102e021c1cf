"""The lesson's first Learner does what a loop written by hand does."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.learner.learners import assert_equal
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Accuracy, DataLoaders, Learner, SimpleLearner
from twinloop.learner.callbacks import MetricsCB, TrainCB
from twinloop.models import MLP

Batches = list[tuple[Tensor, Tensor]]
LR = 0.5


@pytest.fixture(scope="module")
def dls(digits: ImageDataModule) -> DataLoaders:
    """Ten batches to train on, the last one shorter, and two of other digits."""
    parts = list(digits.train_batches())
    images = torch.cat([images for images, _, _ in parts]).float() / 255
    labels = torch.cat([labels for _, labels, _ in parts])
    batches = list(zip(torch.split(images, 64), torch.split(labels, 64), strict=True))
    xb, yb = batches[9]
    return DataLoaders([*batches[:9], (xb[:20], yb[:20])], batches[10:12])


def mlp() -> MLP:
    torch.manual_seed(3)
    return MLP((1, 8, 8), 10, hidden=16)


def by_hand(model: nn.Module, dls: DataLoaders, n_epochs: int) -> list[tuple[float, float]]:
    """Train in plain PyTorch; loss and accuracy of train and of valid, epoch by epoch."""
    opt = torch.optim.SGD(model.parameters(), LR)
    numbers = []
    for _ in range(n_epochs):
        for dl in dls:
            loss_sum, hits, n = 0.0, 0, 0
            for xb, yb in dl:
                preds = model(xb)
                loss = F.cross_entropy(preds, yb)
                if dl is dls.train:
                    opt.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    opt.step()
                loss_sum += loss.item() * len(yb)
                hits += int((preds.argmax(1) == yb).sum())
                n += len(yb)
            numbers.append((loss_sum / n, hits / n))
    return numbers


def test_it_trains_the_mlp_on_digits_as_a_loop_written_by_hand(
    dls: DataLoaders, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_hand(reference := mlp(), dls, 5)
    SimpleLearner(model := mlp(), dls, lr=LR).fit(5)
    assert_equal(model.state_dict(), reference.state_dict())
    printed = capsys.readouterr().out.splitlines()
    stages = ["train", "valid"] * 5
    assert printed == [
        f"epoch {row // 2} {stage} loss {loss:.3f} accuracy {accuracy:.3f}"
        for row, (stage, (loss, accuracy)) in enumerate(zip(stages, expected, strict=True))
    ]
    assert expected[-1][1] > 0.5 > expected[0][1]  # of ten classes: it has learned


def test_the_flexible_learner_ends_with_the_same_weights_and_numbers(
    dls: DataLoaders, capsys: pytest.CaptureFixture[str]
) -> None:
    SimpleLearner(simple := mlp(), dls, lr=LR).fit(3)
    metrics = MetricsCB(accuracy=Accuracy())
    Learner(flexible := mlp(), dls, lr=LR, cbs=[TrainCB(), metrics]).fit(3)
    assert_equal(flexible.state_dict(), simple.state_dict())
    printed = re.findall(r"loss ([\d.]+) accuracy ([\d.]+)", capsys.readouterr().out)
    assert len(printed) == 6
    assert printed == [
        (f"{row[f'{stage}/loss']:.3f}", f"{row[f'{stage}/accuracy']:.3f}")
        for row in metrics.history
        for stage in ("train", "val")
    ]


def test_validation_neither_trains_nor_keeps_a_graph(dls: DataLoaders) -> None:
    modes = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x.flatten(1))

    SimpleLearner(Watched(64, 10), dls).fit(1)
    assert modes == [(True, True)] * 10 + [(False, False)] * 2
