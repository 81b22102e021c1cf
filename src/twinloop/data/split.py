"""Which rows of train are validation, and in which order an epoch goes through the rest."""

import numpy as np
import torch
from torch import Generator, Tensor


def generator(seed: int, *counters: int) -> Generator:
    """A generator that depends on its arguments only, and not on what was drawn before."""
    state = np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


def stratified(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows in two so that both have the classes of `labels [N]` in the same shares.

    Returns the row numbers of the rest `[N - size]` and of the part `[size]`, each ascending.
    Seats are given by largest remainder, so the part has exactly `size` rows. Rows without a
    label, -1, count as one class.
    """
    labels = labels.clamp(min=0)
    counts = torch.bincount(labels)
    shares = counts.double() * size / len(labels)
    seats = shares.long()
    for label in (shares - seats).argsort(descending=True, stable=True)[: size - int(seats.sum())]:
        seats[label] += 1
    draw = generator(seed)
    part = torch.zeros(len(labels), dtype=torch.bool)
    for label, seat in enumerate(seats.tolist()):
        rows = (labels == label).nonzero().flatten()
        part[rows[torch.randperm(len(rows), generator=draw)[:seat]]] = True
    return (~part).nonzero().flatten(), part.nonzero().flatten()
