"""Learning rates of a whole run, against the formulas of the papers."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from twinloop.tasks import Cosine, OneCycle, Plateau

PEAK = 0.4


@pytest.fixture
def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(optimizer: SGD, scheduler: LRScheduler, steps: int) -> list[float]:
    """The learning rate of each of `steps` steps."""
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def test_one_cycle_goes_up_for_a_quarter_and_then_down_to_nearly_nothing(optimizer: SGD) -> None:
    description = OneCycle()(optimizer, steps=41, epochs=5)
    assert description["interval"] == "step"
    scheduler = description["scheduler"]
    assert isinstance(scheduler, LRScheduler)
    # 41 steps, a quarter of them up: the peak is step 9.25, from a 25th and to a 250,000th of it.
    low, end, top = PEAK / 25, PEAK / 250_000, 0.25 * 41 - 1
    up = [half_cosine(low, PEAK, step / top) for step in range(10)]
    down = [half_cosine(PEAK, end, (step - top) / (40 - top)) for step in range(10, 41)]
    assert rates(optimizer, scheduler, 41) == pytest.approx(up + down, rel=1e-6)


def test_one_cycles_peak_is_the_optimisers_own_rate(optimizer: SGD) -> None:
    scheduler = OneCycle(warmup=0.5)(optimizer, steps=10, epochs=1)["scheduler"]
    assert isinstance(scheduler, LRScheduler)
    found = rates(optimizer, scheduler, 10)
    assert max(found) == found[4] == pytest.approx(PEAK)


def test_cosine_goes_down_by_epochs_to_nothing(optimizer: SGD) -> None:
    description = Cosine()(optimizer, steps=1_000, epochs=4)
    assert description["interval"] == "epoch"
    scheduler = description["scheduler"]
    assert isinstance(scheduler, LRScheduler)
    half = math.sqrt(0.5)
    expected = [PEAK * share for share in (1, (1 + half) / 2, 0.5, (1 - half) / 2, 0)]
    assert rates(optimizer, scheduler, 5) == pytest.approx(expected, abs=1e-12)


def test_plateau_falls_after_more_than_two_epochs_without_a_better_loss(optimizer: SGD) -> None:
    description = Plateau()(optimizer, steps=1_000, epochs=9)
    assert (description["interval"], description["monitor"]) == ("epoch", "val/loss")
    scheduler = description["scheduler"]
    assert isinstance(scheduler, ReduceLROnPlateau)
    found = []
    for loss in (1.0, 0.5, 0.5, 0.5, 0.5, 0.4):
        scheduler.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([PEAK] * 4 + [PEAK / 10] * 2)
