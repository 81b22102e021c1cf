"""Means over an epoch, each batch weighted by its size."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from twinloop.learner import Accuracy, Loss, Metric

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [9.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])  # right, wrong, right, wrong


@pytest.mark.parametrize(
    ("batches", "mean"),
    [([(1.0, 3), (2.0, 3), (6.0, 1)], 15 / 7), ([(5.0, 0), (1.0, 2)], 1.0)],
)
def test_each_batch_is_weighted_by_its_samples(
    batches: list[tuple[float, int]], mean: float
) -> None:
    metric = Loss()
    for value, n in batches:
        metric.add(torch.tensor(value), n=n)
    assert metric.value == metric.compute() == torch.tensor(mean)
    metric.reset()
    assert metric.value.isnan()
    metric.add(torch.tensor(7.0), n=2)
    assert metric.value == 7


@pytest.mark.parametrize(("targets", "n"), [(None, 1), (torch.zeros(3), 3)])
def test_without_a_number_of_samples_the_targets_are_counted(
    targets: Tensor | None, n: int
) -> None:
    metric = Metric()
    metric.add(torch.tensor(4.0), targets)
    metric.add(torch.tensor(0.0), n=1)
    assert metric.value == 4 * n / (n + 1)


@pytest.mark.parametrize("sizes", [[4], [3, 1], [1, 1, 2]])
def test_accuracy_is_the_share_of_all_rows_however_they_are_cut(sizes: list[int]) -> None:
    ours, theirs = Accuracy(), MulticlassAccuracy(3, average="micro")
    for logits, labels in zip(torch.split(LOGITS, sizes), torch.split(LABELS, sizes), strict=True):
        ours.update(logits, labels)
        theirs.update(logits, labels)
    assert ours.compute() == theirs.compute() == 0.5


def test_nothing_of_the_graph_is_kept() -> None:
    metric = Loss()
    metric.add(torch.tensor(1.0, requires_grad=True) * 2, n=3)
    assert not metric.total.requires_grad


def test_a_loss_in_bfloat16_is_summed_without_rounding() -> None:
    metric = Loss()
    value = torch.tensor(1.0078125, dtype=torch.bfloat16)  # 1 + 2**-7, the next after 1
    for n in (150, 150, 3):
        metric.add(value, n=n)
    assert metric.value.dtype == torch.float32
    assert metric.value == 1.0078125


def test_a_loss_in_float64_keeps_its_bits() -> None:
    metric = Loss()
    metric.add(torch.tensor(1 + 2**-40, dtype=torch.float64), n=4)
    assert metric.value == torch.tensor(1 + 2**-40, dtype=torch.float64)


def test_a_value_may_be_a_plain_number() -> None:
    class Ten(Metric):
        def calc(self, inps: Tensor, targs: Tensor | None) -> float:
            """Ten percent of the batch's size."""
            return len(inps) / 10

    metric = Ten()
    for size in (2, 4):
        metric.update(torch.ones(size), torch.ones(size))
    assert metric.compute() == torch.tensor((0.2 * 2 + 0.4 * 4) / 6)
    mean = Metric()
    mean.add(3.0, n=2)
    mean.add(1, n=2)
    assert mean.value == 2


def test_accuracy_takes_predicted_classes_too() -> None:
    metric = Accuracy()
    metric.add(LOGITS.argmax(1), LABELS)
    assert metric.value == 0.5
