"""All loaders hand out the same batches."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import batches
from benchmarks.work import Work

WORK = Work("lesson-classifier", batch_size=200, limit=4)


@pytest.mark.parametrize(
    "loader",
    [batches.gathered, batches.as_bytes, batches.tensors, batches.lesson],
    ids=lambda loader: loader.__name__,
)
def test_a_loader_has_the_same_images_in_the_same_order_as_ours(
    loader: Callable[[Work], Iterator[Any]],
) -> None:
    ours, others = list(batches.floats(WORK))[:4], list(loader(WORK))[:4]
    assert [len(labels) for _, labels in others] == [200, 200, 200, 200]
    for (images, labels), (other_images, other_labels) in zip(ours, others, strict=True):
        if other_images.dtype == torch.uint8:
            other_images = other_images.float() / 255
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_a_limit_ends_the_epoch_of_slow_loaders() -> None:
    assert len(list(batches.lesson(WORK))) == 4
    assert WORK.images == 800


@pytest.mark.slow
def test_workers_hand_out_the_same() -> None:
    ours = list(batches.floats(WORK))[:4]
    others = list(partial(batches.lesson, workers=1)(WORK))
    for (images, labels), (other_images, other_labels) in zip(ours, others, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.slow
def test_the_part_measures_each_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FEW", 1)
    rows = batches.measure("digits", torch.device("cpu"), rounds=1)
    targets = [(row["what"], row["against"], row.get("target")) for row in rows]
    assert targets == [
        (batches.OURS, batches.LESSON, ">= 50"),
        (batches.OURS, batches.WORKERS, None),
        (batches.OURS, batches.TENSORS, ">= 4"),
        (batches.BYTES, batches.GATHER, "<= 1.3"),
    ]
    assert all(row["ratio"]["median"] > 0 for row in rows)
