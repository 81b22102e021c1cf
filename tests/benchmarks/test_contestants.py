"""All frameworks do the same work. They come with benchmarks/requirements.txt."""

import pytest
import torch
from torch import Tensor

from benchmarks import contestants
from benchmarks.contestants import ALIKE, CONTESTANTS, OURS
from benchmarks.race import Weights, run
from benchmarks.work import Work
from twinloop.comparison.differences import compare_tensors

pytestmark = pytest.mark.slow


def work(experiment: str) -> Work:
    small = {"widths": [4, 8]} if experiment == "autoencoder" else {}
    return Work(experiment, batch_size=100, epochs=2, limit=3, model=small)


def flat(weights: Weights) -> Tensor:
    """All weights in one row."""
    return torch.cat([weight.flatten().double() for weight in weights.values()])


@pytest.mark.filterwarnings("default")  # other people's
@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("experiment", ["lesson-classifier", "autoencoder"])
def test_a_framework_ends_with_the_weights_of_the_loop_by_hand(experiment: str, name: str) -> None:
    _, by_hand = run(work(experiment), CONTESTANTS["loop by hand"])
    _, other = run(work(experiment), CONTESTANTS[name])
    if name in ALIKE:
        start = flat(work(experiment).task().network.state_dict())
        way = torch.linalg.norm(flat(by_hand) - start)
        assert way > 0
        assert torch.linalg.norm(flat(other) - flat(by_hand)) < ALIKE[name] * way
    else:
        assert compare_tensors("weights", by_hand, other) == []


@pytest.mark.filterwarnings("default")
def test_the_part_has_a_line_for_each_framework_and_network() -> None:
    rows = contestants.measure("digits", torch.device("cpu"), rounds=1)
    found = {(row["what"], row["against"]) for row in rows}
    assert len(rows) == 2 * len(found)
    assert found == {(ours, name) for ours in OURS for name in CONTESTANTS if name not in OURS}
