"""How long a step takes outside the model, and how long is spent at each event."""

from pathlib import Path
from statistics import median

import pytest

from twinloop.learner.callbacks.trace import Traced
from twinloop.runs.timings import EventTimings, read_timings, write_timings


def timings(
    *timed: tuple[str, str, int, float],
    forward: list[tuple[float, float]],
    stepped: list[float],
) -> EventTimings:
    events = [Traced(event, stage, epoch, 0) for event, stage, epoch, _ in timed]
    return EventTimings(events, [at for *_, at in timed], forward, stepped)


def test_the_time_outside_is_that_of_a_step_without_the_model() -> None:
    # From 0 to 100, with 30 forward, 20 backward and 15 of the optimiser: 35 are left.
    learner = timings(
        ("before_batch", "train", 0, 0.0),
        ("after_loss", "train", 0, 40.0),
        ("after_backward", "train", 0, 60.0),
        ("before_step", "train", 0, 62.0),
        ("after_batch", "train", 0, 90.0),
        ("before_batch", "train", 0, 100.0),
        # Validation and the way into the next epoch are no part of a step.
        ("before_epoch", "val", 0, 500.0),
        ("before_batch", "train", 1, 900.0),
        forward=[(5.0, 35.0), (105.0, 135.0), (905.0, 935.0)],
        stepped=[77.0],
    )
    assert learner.outside() == 35.0


HOMEMADE = ("before_batch", "after_loss", "after_backward", "before_step", "cleanup_step")
LIGHTNING = (
    *("on_train_batch_start", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)


@pytest.mark.parametrize("names", [HOMEMADE, LIGHTNING], ids=["homemade", "lightning"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_step_counts_for_the_batch_that_it_was_made_in(
    every: int, names: tuple[str, ...], tmp_path: Path
) -> None:
    """Batch n takes 100 s: 30 forward, 20 backward, 35 + n outside; the rest is for the step.

    The homemade loop asks for a step in every batch, and gives it up where gradients add up;
    Lightning asks only where there is one.
    """
    timed, forward, stepped = [], [], []
    start, outside = 0.0, []
    for number in range(13):
        steps = (number + 1) % every == 0
        rest = 15.0 if steps else 0.0
        outside.append(35.0 + number)
        moments = {names[0]: 0.0, names[1]: 40.0, names[2]: 60.0}
        if steps or names is HOMEMADE:
            moments[names[3]] = 62.0
        moments[names[4]] = 63.0 + rest
        timed += [(name, "train", 0, start + at) for name, at in moments.items()]
        forward.append((start + 5.0, start + 35.0))
        if steps:
            stepped.append(start + 62.0 + rest)
        start += 50.0 + rest + outside[-1]
    found = timings(*timed, forward=forward, stepped=stepped)
    assert found.outside() == median(outside[:-1])
    write_timings(tmp_path, found, None)
    assert read_timings(tmp_path).outside() == median(outside[:-1])


def test_a_batch_without_a_forward_and_one_with_two_keep_their_own() -> None:
    found = timings(
        *(("before_batch", "train", 0, 100.0 * number) for number in range(4)),
        forward=[(110.0, 120.0), (130.0, 150.0), (210.0, 240.0)],
        stepped=[],
    )
    assert found.outside() == 70.0  # of 100, 70 and 70


def test_time_falls_to_the_event_before_it() -> None:
    run = timings(
        ("before_batch", "train", 0, 0.0),
        ("after_batch", "train", 0, 3.0),
        ("before_batch", "train", 0, 4.0),
        ("after_batch", "train", 0, 9.0),
        forward=[],
        stepped=[],
    )
    assert run.by_event() == {"train before_batch": (2, 8.0), "train after_batch": (1, 1.0)}
