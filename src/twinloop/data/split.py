"""The validation split, and random generators seeded by (seed, counters)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Generator, Tensor

from twinloop.errors import UserError

SPLIT_SEED = 42
"""Seed of the validation split, so that runs of several seeds are measured on the same rows."""


def generator(seed: int, *counters: int) -> Generator:
    """Create a generator that depends only on the arguments, not on earlier random values."""
    state = np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


@contextmanager
def seeded(seed: int, *counters: int, cuda: bool = False) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python, and restore them afterwards.

    Those of GPUs only with `cuda`.
    """
    with isolate_rng(include_cuda=cuda):
        value = generator(seed, *counters).initial_seed()
        torch.default_generator.manual_seed(value)
        if cuda:
            torch.cuda.manual_seed_all(value)
        np.random.seed(value % 2**32)  # noqa: NPY002 - what other people's data sets draw from
        random.seed(value)
        yield


def stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows in two parts with the same shares of the classes in `labels [N]`.

    Returns the rows of the rest `[N - size]` and of the part `[size]`, each ascending. Shares are
    rounded by largest remainder, so the part has exactly `size` rows. Rows without a label, -1,
    count as one class.
    """
    labels = labels.clamp(min=0)
    counts = torch.bincount(labels)
    shares = counts.double() * size / len(labels)
    sizes = shares.long()
    for label in (shares - sizes).argsort(descending=True, stable=True)[: size - int(sizes.sum())]:
        sizes[label] += 1
    random = generator(seed)
    part = torch.zeros(len(labels), dtype=torch.bool)
    for label, class_size in enumerate(sizes.tolist()):
        rows = (labels == label).nonzero().flatten()
        part[rows[torch.randperm(len(rows), generator=random)[:class_size]]] = True
    return (~part).nonzero().flatten(), part.nonzero().flatten()


def hold_out_val(labels: Tensor, val_size: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows of train and of val; `val_size` is a share below 1, or a number of rows.

    Raises:
        UserError: nothing would be left to train on.
    """
    size = round(val_size if val_size >= 1 else len(labels) * val_size)
    if size >= len(labels):
        raise UserError(
            f"data.val_size is {val_size:g}, but train has only {len(labels)} images: "
            "none would be left to train on"
        )
    return stratified(labels, size, seed)
