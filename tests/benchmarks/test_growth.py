"""How steps are timed as things grow."""

import json

import pytest
import torch

from benchmarks import growth
from benchmarks.loops import CONTESTANTS
from benchmarks.work import Work


@pytest.mark.slow
@pytest.mark.parametrize("loop", dict.fromkeys((*growth.LOOPS, *growth.BARE_LOOPS)))
def test_a_step_is_timed_off_the_loader_of_any_loop(loop: str) -> None:
    work = Work("lesson-classifier", batch_size=100, limit=5)
    assert 1e-4 < growth.seconds_of_step(work, CONTESTANTS[loop]) < 10


@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_data_set() -> None:
    once, more = growth.by_data("digits", (1, 40))
    assert more["images"] == pytest.approx(40 * once["images"], rel=0.01)
    # 40 times the 86 kB of images and 11 kB of labels, none of it in memory of its own
    assert more["own_mb"] - once["own_mb"] < 3.0
    assert json.loads(json.dumps(more))["grows"] == "data"


@pytest.mark.slow
def test_every_kind_of_growth_has_a_row_for_each_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BATCHES", (32, 8192))
    monkeypatch.setattr(growth, "WIDTHS", (1,))
    cpu = torch.device("cpu")
    batch = growth.by_batch("digits", cpu, rounds=1)
    assert [(row["size"], row["loop"]) for row in batch] == [(32, loop) for loop in growth.LOOPS]
    monkeypatch.setattr(growth, "LEAST_STEPS", 5)
    width = growth.by_width("digits", cpu, rounds=1)
    assert [(row["times"], row["loop"]) for row in width] == [(1, loop) for loop in growth.LOOPS]
    assert "share" not in width[0]
    assert width[1]["added_ms"]["median"] < width[1]["step_ms"]["median"]


@pytest.mark.slow
def test_two_processes_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "PROCESSES", (2,))
    # One round, without a warm-up.
    monkeypatch.setattr(growth, "in_turn", lambda ways, _: {way: [ways[way]()] for way in ways})
    rows = growth.by_processes("digits", torch.device("cpu"), rounds=1)
    assert [(row["processes"], row["loop"]) for row in rows] == [
        (2, loop) for loop in growth.BARE_LOOPS
    ]
    assert all(row["step_ms"]["median"] > 0.1 for row in rows)
