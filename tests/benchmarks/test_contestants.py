"""All frameworks do the same work. They come with benchmarks/requirements.txt."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from benchmarks import contestants
from benchmarks.contestants import ALIKE, CONTESTANTS, OURS, SLOW
from benchmarks.loops import HAND
from benchmarks.race import Weights, run
from benchmarks.work import Work
from twinloop.comparison.differences import compare_tensors

pytestmark = pytest.mark.slow
CHECKPOINTS = {".ckpt", ".pt", ".safetensors", ".h5"}
"""Endings of files of weights."""


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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted({*CONTESTANTS} - {HAND, *SLOW}))
def test_what_frameworks_write(name: str, tmp_path: Path) -> None:
    made = Work("mlp", batch_size=100, epochs=2, limit=10)
    with CONTESTANTS[name](made, made.task(), tmp_path) as fit:
        fit()
    counts = []
    for path in tmp_path.rglob("events.out.tfevents.*"):
        board = EventAccumulator(str(path)).Reload()
        counts += [len(board.Scalars(tag)) for tag in board.Tags()["scalars"]]
    # The loss of steps 10 and 20; loss and accuracy of two epochs on train and val; some have more.
    assert counts.count(2) >= 5
    networks = [path for path in tmp_path.rglob("*") if path.stat().st_size > 4 * 3_760]
    assert len([path for path in networks if path.suffix in CHECKPOINTS]) >= 2
