"""Validation has the classes in the shares of train, exactly, and depends on the seed only."""

import itertools

import pytest
import torch

from twinloop.data.split import generator, stratified

LABELS = torch.tensor([0, 1, 2, 2] * 25)  # 25, 25 and 50 of three classes


def test_every_class_gets_its_share() -> None:
    rest, part = stratified(LABELS, 20, seed=0)
    assert LABELS[part].bincount().tolist() == [5, 5, 10]
    assert LABELS[rest].bincount().tolist() == [20, 20, 40]


@pytest.mark.parametrize(
    ("size", "seats"),
    [
        (0, [0, 0, 0]),
        (1, [0, 0, 1]),  # shares 0.25, 0.25, 0.5
        (2, [1, 0, 1]),  # 0.5, 0.5, 1: of equals the first
        (3, [1, 1, 1]),  # 0.75, 0.75, 1.5
        (99, [25, 25, 49]),  # 24.75, 24.75, 49.5
        (100, [25, 25, 50]),
    ],
)
def test_seats_go_to_the_largest_remainders(size: int, seats: list[int]) -> None:
    _, part = stratified(LABELS, size, seed=0)
    assert torch.bincount(LABELS[part], minlength=3).tolist() == seats


def test_both_parts_together_are_all_rows_once_and_ascending() -> None:
    rest, part = stratified(LABELS, 33, seed=5)
    assert torch.cat([rest, part]).sort().values.tolist() == list(range(100))
    assert rest.tolist() == sorted(rest.tolist())
    assert part.tolist() == sorted(part.tolist())


def test_only_the_seed_decides() -> None:
    _, first = stratified(LABELS, 20, seed=1)
    torch.rand(3)  # what was drawn elsewhere does not matter
    _, again = stratified(LABELS, 20, seed=1)
    _, other = stratified(LABELS, 20, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generators_differ_in_every_argument() -> None:
    keys = list(itertools.product((0, 1, 2), repeat=3))  # seed, epoch, what for
    draws = {tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(
        torch.rand(4, generator=generator(7, 3)), torch.rand(4, generator=generator(7, 3))
    )
