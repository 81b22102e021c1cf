"""Where the time of a step goes."""

import pytest
from benchmarks.profile_steps import PARTS, REST, exclusive, parts_of_step
from benchmarks.work import Work


def test_a_part_does_not_count_the_parts_inside_it() -> None:
    marks = [
        (0, 1000, "data"),
        (2000, 12000, "optimiser"),
        (3000, 5000, "forward"),
        (4000, 4500, "metrics"),
        (5000, 8000, "backward"),
        (12000, 14000, "data"),
        (15000, 20000, "optimiser"),
        (21000, 30000, "forward"),  # validation
    ]
    found = exclusive([(a, b, name) for a, b, name in marks], steps=2)
    expected = {
        "data": 1.5,
        "forward": 0.75,
        "loss": 0,
        "backward": 1.5,
        "optimiser": (10 - 2 - 3 + 5) / 2,
        "metrics": 0.25,
        "logging": 0,
        REST: 1.0,
    }
    assert found == expected
    assert sum(found.values()) == 10.0


@pytest.mark.parametrize("loop", ["loop by hand", "Learner, metrics", "Lightning, all features"])
def test_every_loop_has_all_parts(loop: str) -> None:
    work = Work("lesson-classifier", batch_size=100, limit=4)
    found = parts_of_step(work, loop)
    assert set(found) == {*PARTS, REST}
    never = {"logging"} if loop != "Lightning, all features" else set()
    assert {name for name, milliseconds in found.items() if milliseconds == 0} == never
    assert all(milliseconds >= 0 for milliseconds in found.values())
