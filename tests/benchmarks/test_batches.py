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
    [
        batches.gathered,
        batches.as_bytes,
        batches.tensors,
        batches.lesson,
        pytest.param(partial(batches.lesson, workers=1), marks=pytest.mark.slow),
    ],
    ids=["gathered", "as bytes", "tensors", "lesson", "lesson with a worker"],
)
def test_every_loader_has_the_same_images_in_the_same_order(
    loader: Callable[[Work], Iterator[Any]],
) -> None:
    ours, others = list(batches.floats(WORK))[:4], list(loader(WORK))[:4]
    assert [len(labels) for _, labels in others] == [200, 200, 200, 200]
    for (images, labels), (other_images, other_labels) in zip(ours, others, strict=True):
        if other_images.dtype == torch.uint8:
            other_images = other_images.float() / 255
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.slow
def test_the_part_measures_each_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FEW", 1)
    rows = batches.measure("digits", torch.device("cpu"), rounds=1)
    assert [(row["what"], row["against"]) for row in rows] == [
        *((batches.OURS, loader) for loader in (batches.LESSON, batches.WORKERS, batches.TENSORS)),
        (batches.BYTES, batches.GATHER),
    ]
    assert all(row["ratio"]["median"] > 0 for row in rows)
