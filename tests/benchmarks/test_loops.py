"""All loops do the same work: from the same weights to the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks import loops
from benchmarks.loops import CONTESTANTS, HAND, Fit
from benchmarks.race import race, run
from benchmarks.work import Work
from twinloop.comparison.differences import compare_tensors


def work(experiment: str) -> Work:
    small = {"widths": [4, 8]} if experiment == "autoencoder" else {}
    return Work(experiment, batch_size=100, epochs=2, limit=3, model=small)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [name for name in CONTESTANTS if name != HAND])
@pytest.mark.parametrize(
    "experiment", ["lesson-classifier", pytest.param("autoencoder", marks=pytest.mark.slow)]
)
def test_a_loop_ends_with_the_weights_of_the_loop_by_hand(experiment: str, loop: str) -> None:
    seconds, by_hand = run(work(experiment), CONTESTANTS[HAND])
    assert seconds > 0
    _, other = run(work(experiment), CONTESTANTS[loop])
    assert compare_tensors("weights", by_hand, other) == []
    start = work(experiment).task().network.state_dict()
    assert compare_tensors("weights", start, other) != []


@pytest.mark.slow
def test_loops_that_do_not_do_the_same_are_refused() -> None:
    @contextmanager
    def idle(*_: object) -> Iterator[Fit]:
        yield lambda: None

    with pytest.raises(ValueError, match="not the same work: by hand, idle"):
        race(work("lesson-classifier"), {"by hand": CONTESTANTS[HAND], "idle": idle}, rounds=1)


@pytest.mark.slow
def test_the_part_measures_every_pair() -> None:
    rows = loops.measure("digits", torch.device("cpu"), rounds=1)
    assert len(rows) == 2 * 7
    assert all(row["ratio"]["median"] > 0 for row in rows)
