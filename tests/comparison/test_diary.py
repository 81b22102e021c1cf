"""How long a step takes outside the model, and how long is spent at each event."""

from twinloop.comparison.diary import Diary
from twinloop.learner.callbacks.trace import Traced


def diary(*timed: tuple[str, str, int, float], forward: list[float], stepped: list[float]) -> Diary:
    events = [Traced(event, stage, epoch, 0) for event, stage, epoch, _ in timed]
    return Diary(events, [at for *_, at in timed], forward, stepped)


def test_a_step_is_what_is_left_when_the_model_is_taken_away() -> None:
    # From 0 to 100, with 30 forward, 20 backward and 15 of the optimiser: 35 are left.
    learner = diary(
        ("before_batch", "train", 0, 0.0),
        ("after_loss", "train", 0, 40.0),
        ("after_backward", "train", 0, 60.0),
        ("before_step", "train", 0, 62.0),
        ("after_batch", "train", 0, 90.0),
        ("before_batch", "train", 0, 100.0),
        # Validation and the way into the next epoch are no part of a step.
        ("before_epoch", "val", 0, 500.0),
        ("before_batch", "train", 1, 900.0),
        forward=[30.0, 30.0, 30.0],
        stepped=[77.0],
    )
    assert learner.outside() == 35.0


def test_lightnings_hooks_are_read_the_same_way() -> None:
    lightning = diary(
        ("on_train_batch_start", "train", 0, 0.0),
        ("on_before_backward", "train", 0, 40.0),
        ("on_after_backward", "train", 0, 60.0),
        ("on_before_optimizer_step", "train", 0, 62.0),
        ("on_train_batch_end", "train", 0, 90.0),
        ("on_train_batch_start", "train", 0, 100.0),
        forward=[30.0, 30.0],
        stepped=[77.0],
    )
    assert lightning.outside() == 35.0


def test_time_falls_to_the_event_before_it() -> None:
    run = diary(
        ("before_batch", "train", 0, 0.0),
        ("after_batch", "train", 0, 3.0),
        ("before_batch", "train", 0, 4.0),
        ("after_batch", "train", 0, 9.0),
        forward=[],
        stepped=[],
    )
    assert run.by_event() == {"train before_batch": (2, 8.0), "train after_batch": (1, 1.0)}
