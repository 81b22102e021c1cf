"""Whole batches as uint8, in an order that (seed, epoch) fixes."""

import pytest
import torch
from torch import Tensor

from twinloop.data.augment import Augmentation
from twinloop.data.batches import Batches, from_integers, to_integers
from twinloop.data.cache import Split

ROWS = torch.tensor([8, 1, 5, 3, 9, 2, 7])


@pytest.fixture
def split() -> Split:
    """Ten images of 2x2, each filled with ten times its row number."""
    numbers = torch.arange(10)
    images = (numbers * 10).to(torch.uint8)[:, None, None, None].expand(10, 1, 2, 2)
    return Split(images.contiguous(), numbers + 100)


def order(batches: Batches) -> list[int]:
    """The rows of one epoch, read off the labels."""
    labels: list[int] = (torch.cat([labels for _, labels, _ in batches]) - 100).tolist()
    return labels


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])]
)
def test_whole_batches_as_uint8(split: Split, batch_size: int, sizes: list[int]) -> None:
    batches = Batches(split, ROWS, batch_size)
    assert len(batches) == len(sizes)
    found = list(batches)
    assert [len(images) for images, _, _ in found] == sizes
    images = torch.cat([images for images, _, _ in found])
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0, 1, 1].long(), ROWS * 10)
    assert order(batches) == ROWS.tolist()
    assert all(draws is None for _, _, draws in found)


def test_the_order_depends_on_seed_and_epoch_only(split: Split) -> None:
    def epoch(seed: int, number: int, batch_size: int = 3) -> list[int]:
        batches = Batches(split, ROWS, batch_size, seed=seed, shuffle=True)
        batches.set_epoch(number)
        torch.rand(seed + number)  # what was drawn elsewhere does not matter
        return order(batches)

    orders = {(seed, number): epoch(seed, number) for seed in (0, 1) for number in (0, 1, 2)}
    assert len(set(map(tuple, orders.values()))) == 6
    for (seed, number), rows in orders.items():
        assert sorted(rows) == sorted(ROWS.tolist())
        assert epoch(seed, number, batch_size=2) == rows
    batches = Batches(split, ROWS, 3, seed=1, shuffle=True)
    for number in (2, 0, 1):  # in any order
        batches.batch_sampler.sampler.set_epoch(number)  # as Lightning sets it
        assert order(batches) == orders[1, number]
    for images, labels, _ in batches:
        assert torch.equal(images[:, 0, 0, 0].long(), (labels - 100) * 10)
    assert list(Batches(split, ROWS[:0], 3)) == []


def test_an_epoch_set_after_the_iterator_was_made_counts(split: Split) -> None:
    batches = Batches(split, ROWS, 7, seed=4, shuffle=True)
    batches.set_epoch(2)
    expected = order(batches)
    batches.set_epoch(0)
    iterator = iter(batches)
    batches.set_epoch(2)
    assert (next(iterator)[1] - 100).tolist() == expected


def test_augmentation_draws_do_not_depend_on_the_batch_size(split: Split) -> None:
    augmentation = Augmentation(shift=1)

    def draws(batch_size: int) -> Tensor:
        batches = Batches(split, ROWS, batch_size, seed=3, shuffle=True, augmentation=augmentation)
        batches.set_epoch(1)
        return torch.cat([from_integers(part) for _, _, part in batches if part is not None])

    assert torch.equal(draws(2), augmentation.random_values(7, seed=3, epoch=1))
    assert torch.equal(draws(2), draws(5))


def test_draws_survive_the_conversion_to_integers() -> None:
    draws = torch.cat([torch.rand(1000), torch.tensor([0.0, 1 - 2**-24])])
    assert torch.equal(from_integers(to_integers(draws)), draws)


def test_an_interrupted_epoch_is_resumed_at_its_next_batch(split: Split) -> None:
    whole = Batches(split, torch.arange(7), 2, seed=3, shuffle=True)
    whole.set_epoch(4)
    begun = Batches(split, torch.arange(7), 2, seed=3, shuffle=True)
    begun.set_epoch(4)
    first = iter(begun)
    next(first), next(first)
    resumed = Batches(split, torch.arange(7), 2, seed=3, shuffle=True)
    resumed.load_state_dict(begun.state_dict())
    resumed.set_epoch(4)
    rest, expected = [b[0] for b in resumed], [b[0] for b in whole][2:]
    assert len(rest) == len(expected) == 2
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))
    # The next epoch begins at its beginning, as does one that is resumed after the whole of it.
    assert len(list(resumed)) == 4
    resumed.load_state_dict(resumed.state_dict())
    assert len(list(resumed)) == 4


def test_processes_share_an_epoch_in_equal_parts(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.cat([labels for _, labels, _ in Batches(split, torch.arange(7), 2, shuffle=True)])
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        batches = Batches(split, torch.arange(7), 2, shuffle=True)
        shares.append(torch.cat([labels for _, labels, _ in batches]))
        assert len(batches) == 2
    # Seven rows make four each: the first comes twice.
    assert torch.equal(torch.stack(shares, 1).flatten(), torch.cat([whole, whole[:1]]))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_rows_of_a_batch_are_known_without_gathering_it(split: Split, processes: int) -> None:
    for rank in range(processes):
        batches = Batches(split, ROWS, 2, shuffle=True)
        batches.rank, batches.processes = rank, processes
        batches.set_epoch(3)
        gathered = [(labels - 100).tolist() for _, labels, _ in batches]
        rows = [batches.rows_of(number).tolist() for number in range(len(batches))]
        assert rows == gathered
    assert len(rows) >= 2
