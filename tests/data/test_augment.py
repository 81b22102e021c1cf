"""Shift, flip and erase, against images changed by hand."""

import pytest
import torch
from torch import Tensor

from tests.own_data import Crop, Jitter
from twinloop.data.augment import Augmentation, Transforms
from twinloop.errors import UserError

IMAGE = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8)
LOW, MIDDLE, HIGH = 0.0, 0.5, 0.99


def changed(augmentation: Augmentation, *draws: float) -> list[list[int]]:
    """The one image above after the draws: down, right, flip, top, left."""
    result: Tensor = augmentation(IMAGE[None, None], torch.tensor([draws]))
    assert result.dtype == torch.uint8
    rows: list[list[int]] = result[0, 0].tolist()
    return rows


@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (MIDDLE, MIDDLE, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (LOW, MIDDLE, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        (HIGH, MIDDLE, [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        (MIDDLE, LOW, [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        (MIDDLE, HIGH, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        (LOW, HIGH, [[0, 0, 0], [2, 3, 0], [5, 6, 0]]),
    ],
)
def test_shift_moves_by_one_and_leaves_black(
    down: float, right: float, expected: list[list[int]]
) -> None:
    assert changed(Augmentation(shift=1), down, right, 0, 0, 0) == expected


def test_flip_mirrors_the_lower_half_of_draws_before_the_shift() -> None:
    mirrored = [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert changed(Augmentation(flip=True), 0, 0, 0.49, 0, 0) == mirrored
    assert changed(Augmentation(flip=True), 0, 0, 0.5, 0, 0) == IMAGE.tolist()
    both = Augmentation(shift=1, flip=True)
    assert changed(both, LOW, MIDDLE, LOW, 0, 0) == [[0, 0, 0], [3, 2, 1], [6, 5, 4]]


@pytest.mark.parametrize(
    ("top", "left", "expected"),
    [
        (LOW, LOW, [[0, 0, 3], [0, 0, 6], [7, 8, 9]]),
        (LOW, HIGH, [[1, 0, 0], [4, 0, 0], [7, 8, 9]]),
        (HIGH, LOW, [[1, 2, 3], [0, 0, 6], [0, 0, 9]]),
    ],
)
def test_erase_blackens_a_square_inside(top: float, left: float, expected: list[list[int]]) -> None:
    assert changed(Augmentation(erase=2), 0, 0, 0, top, left) == expected


def test_every_channel_is_changed_alike() -> None:
    colour = torch.stack([IMAGE, IMAGE + 10, IMAGE + 20])[None]
    full = Augmentation(shift=1, flip=True, erase=1)
    draws = torch.tensor([[LOW, HIGH, LOW, MIDDLE, MIDDLE]])
    together = full(colour, draws)
    for channel in range(3):
        alone = full(colour[:, channel : channel + 1], draws)
        assert torch.equal(together[:, channel], alone[:, 0])


def test_the_batch_size_makes_no_difference() -> None:
    images = torch.randint(256, (10, 1, 6, 4), dtype=torch.uint8)
    augmentation = Augmentation(shift=2, flip=True, erase=2)
    draws = augmentation.random_values(10, seed=3, epoch=1)
    whole = augmentation(images, draws)
    for size in (1, 3, 10):
        parts = [slice(start, start + size) for start in range(0, 10, size)]
        changes = [augmentation(images[part], draws[part]) for part in parts]
        assert torch.equal(torch.cat(changes), whole)
    assert not torch.equal(whole, images)
    assert torch.equal(Augmentation()(images, draws), images)  # does nothing by default


def test_draws_depend_on_seed_and_epoch_and_on_nothing_else() -> None:
    augmentation = Augmentation(flip=True)
    draws = augmentation.random_values(6, seed=1, epoch=2)
    assert draws.shape == (6, 5)
    torch.rand(1)
    assert torch.equal(augmentation.random_values(6, seed=1, epoch=2), draws)
    assert not torch.equal(augmentation.random_values(6, seed=1, epoch=3), draws)
    assert not torch.equal(augmentation.random_values(6, seed=2, epoch=2), draws)


def test_an_invalid_size_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"data\.augmentation.shift is -1; 0 is off"):
        Augmentation(shift=-1)
    with pytest.raises(UserError, match=r"data\.augmentation.erase is -2; 0 is off"):
        Augmentation(erase=-2)
    with pytest.raises(UserError, match=r"erase is 4, larger than images of 3x3"):
        changed(Augmentation(erase=4), 0, 0, 0, 0, 0)
    assert changed(Augmentation(erase=3), 0, 0, 0, 0, 0) == [[0] * 3] * 3


def test_modules_change_a_batch_by_its_random_values_alone() -> None:
    images = torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    augmentation = Transforms([Jitter(), Jitter(0.5)])
    values = augmentation.random_values(6, seed=1, epoch=0)
    assert torch.equal(values, Augmentation().random_values(6, seed=1, epoch=0))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = augmentation(images, values[:3])
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(augmentation(images, values[:3]), first)
    assert not torch.equal(augmentation(images, values[3:]), first)
    assert first.dtype == torch.float32
    assert 0 < first.min() < first.max() < 1
    with pytest.raises(UserError, match=r"Crop made \[3, 1, 3, 4\] of images of"):
        Transforms([Crop()])(images, values[:3])
