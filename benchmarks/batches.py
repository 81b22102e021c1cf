"""The time of a batch from different loaders, without training."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.pairs import Target, in_turn, row, seconds_of
from benchmarks.work import Work

Pair = tuple[Tensor, Tensor]
OURS, BYTES = "our batches", "our batches, as bytes"
LESSON, TENSORS = "lesson's pipeline (PIL, default collate)", "TensorDataset and DataLoader"
WORKERS = "lesson's pipeline, 2 workers"
GATHER = "gather by index, as bytes"
FEW = 40
"""Batches per round of the slow loaders; the fast ones run a whole epoch."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Seconds per image of train, by loader."""
    whole, few = Work("lesson-classifier", source, device), None
    few = Work("lesson-classifier", source, device, limit=FEW)
    loaders: dict[str, tuple[Work, Callable[[Work], Iterator[Any]]]] = {
        OURS: (whole, floats),
        BYTES: (whole, as_bytes),
        GATHER: (whole, gathered),
        TENSORS: (whole, tensors),
        LESSON: (few, lesson),
        WORKERS: (few, partial(lesson, workers=2)),
    }

    def once(name: str) -> float:
        work, loader = loaders[name]
        batches = loader(work)
        return seconds_of(lambda: exhaust(batches), device) / work.images

    times = in_turn({name: partial(once, name) for name in loaders}, rounds)
    return [
        row(times, OURS, LESSON, Target(50, at_least=True)),
        row(times, OURS, WORKERS),
        row(times, OURS, TENSORS, Target(4, at_least=True)),
        row(times, BYTES, GATHER, Target(1.3)),
    ]


def exhaust(batches: Iterator[Any]) -> None:
    """Iterate over all batches."""
    for _ in batches:
        pass


def floats(work: Work) -> Iterator[Pair]:
    """Ours, converted to floats on the device."""
    for images, labels, random in work.data.train_batches():
        batch = images.to(work.device), labels.to(work.device), random
        yield work.data.on_after_batch_transfer(batch, 0)


def as_bytes(work: Work) -> Iterator[Pair]:
    """Ours, as bytes."""
    for images, labels, _ in work.data.train_batches():
        yield images, labels


def gathered(work: Work) -> Iterator[Pair]:
    """The minimum: two gathers per batch, in a precomputed order."""
    split, rows = work.data.data.train, work.data.rows["train"][list(work.order("train"))]

    def gather() -> Iterator[Pair]:
        for part in torch.split(rows, work.batch_size):
            yield split.images.index_select(0, part), split.labels.index_select(0, part)

    return gather()


def tensors(work: Work) -> Iterator[Pair]:
    """Floats in memory, by torch's DataLoader."""
    for images, labels in work.tensor_loader("train"):
        yield images.to(work.device), labels.to(work.device)


def lesson(work: Work, workers: int = 0) -> Iterator[Pair]:
    """PNGs, decoded image by image."""
    for images, labels in work.lesson_loader("train", workers):
        yield images.to(work.device), labels.to(work.device)
