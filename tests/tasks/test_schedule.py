"""Learning rates of a whole run, against the formulas of the papers."""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from twinloop.errors import UserError
from twinloop.tasks import Cosine, OneCycle, Plateau, SequentialLR, TorchSchedule

PEAK = 0.4


@pytest.fixture
def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
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


def test_one_cycle_lowers_momentum_where_there_is_any() -> None:
    def momentum(made: Optimizer, schedule: OneCycle) -> list[float]:
        scheduler = schedule(made, steps=5, epochs=1)["scheduler"]
        assert isinstance(scheduler, LRScheduler)
        rates(made, scheduler, 2)
        group = made.param_groups[0]
        return [float(group.get("betas", [group.get("momentum", 0.0)])[0])]

    weights = [nn.Parameter(torch.zeros(1))]
    assert momentum(Adam(weights), OneCycle(warmup=0.5)) != [0.9]
    assert momentum(Adam(weights), OneCycle(warmup=0.5, cycle_momentum=False)) == [0.9]
    assert momentum(Adagrad(weights), OneCycle()) == [0.0]
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        momentum(Adagrad(weights), OneCycle(cycle_momentum=True))


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


halve = partial(StepLR, step_size=1, gamma=0.5)


def test_a_sequence_goes_from_one_scheduler_to_the_next(optimizer: SGD) -> None:
    constant = partial(ConstantLR, factor=0.25, total_iters=9)
    scheduler = SequentialLR(optimizer, [constant, halve], milestones=[2])
    found = rates(optimizer, scheduler, 5)
    assert found == pytest.approx([PEAK / 4, PEAK / 4, PEAK, PEAK / 2, PEAK / 4])


def test_a_scheduler_of_torch_steps_when_it_should(optimizer: SGD) -> None:
    schedule = TorchSchedule(halve, "step", frequency=3)
    made = schedule(optimizer, steps=9, epochs=3)
    assert isinstance(made["scheduler"], StepLR)
    assert (made["interval"], made["frequency"], made["monitor"]) == ("step", 3, None)
    assert deepcopy(schedule) is schedule  # in a copy of the task, for an average of its weights
    plateau = TorchSchedule(partial(OwnPlateau, monitor="val/loss"))(optimizer, 9, 3)
    assert (plateau["interval"], plateau["monitor"]) == ("epoch", "val/loss")


class OwnPlateau(ReduceLROnPlateau):
    """Takes the metric itself, as Lightning's does."""

    def __init__(self, optimizer: Optimizer, monitor: str) -> None:
        super().__init__(optimizer)
        self.monitor = monitor


def one_cycle(steps: int) -> Any:
    return partial(OneCycleLR, max_lr=0.1, total_steps=steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((halve, "step", 0), r"frequency is 0; it must be at least 1"),
        ((halve, "epoch", 1, "val/loss"), r"monitor: StepLR reads no metric; unset it"),
        ((ReduceLROnPlateau, "step", 1, "val/loss"), r"val/loss is measured in epochs; set"),
        ((ReduceLROnPlateau,), r"monitor: ReduceLROnPlateau reads a metric; set it"),
        ((one_cycle(8), "step"), r"OneCycleLR ends after 8 of its steps, before this run does"),
        ((one_cycle(2), "epoch"), r"OneCycleLR ends after 2 of its steps, before this run does"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(
    arguments: tuple[Any, ...], message: str, optimizer: SGD
) -> None:
    with pytest.raises(UserError, match=rf"^model\.schedule.*{message}"):
        TorchSchedule(*arguments)(optimizer, steps=9, epochs=3)
    for steps, frequency in ((9, 1), (4, 2)):
        TorchSchedule(one_cycle(steps), "step", frequency)(optimizer, steps=9, epochs=3)
