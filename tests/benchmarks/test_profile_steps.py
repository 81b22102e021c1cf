"""Where the time of a step goes."""

import pytest
import torch

from benchmarks import profile_steps
from benchmarks.profile_steps import PARTS, REST, by_package, exclusive, parts_of_step
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


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["loop by hand", "Learner, metrics", "Lightning, all features"])
def test_every_loop_has_all_parts(loop: str) -> None:
    # Lightning writes the loss of every tenth step.
    work = Work("lesson-classifier", batch_size=100, limit=10)
    found = parts_of_step(work, loop)
    assert set(found) == {*PARTS, REST}
    never = {"logging"} if loop != "Lightning, all features" else set()
    assert {name for name, milliseconds in found.items() if milliseconds == 0} == never
    assert all(milliseconds >= 0 for milliseconds in found.values())


def test_a_sample_belongs_to_the_package_of_its_innermost_frame() -> None:
    raw = """\
main (/a/race.py:9);import (/a/site-packages/lightning/__init__.py:1) 50
seconds_of (/a/pairs.py:9);fit (/a/src/twinloop/a.py:1);step (/a/site-packages/torch/b.py:2) 3
seconds_of (/a/pairs.py:9);fit (/a/site-packages/lightning/loop.py:7) 2
seconds_of (/a/pairs.py:9);collect (/usr/gc.py:7) 1
_bootstrap (/usr/threading.py:7);draw (/a/site-packages/rich/live.py:2) 4
"""
    expected = dict.fromkeys((*profile_steps.PACKAGES, "others"), 0)
    assert by_package(raw) == expected | {"torch": 3, "lightning": 2, "others": 1, "rich": 4}


@pytest.mark.slow
def test_python_is_at_work_in_its_packages() -> None:
    found = profile_steps.python_of_batch("digits", torch.device("cpu"), "Learner, all features")
    assert found["torch"] > 0
    assert sum(found.values()) > 0
