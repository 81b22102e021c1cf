"""Where the time of training goes, and what is counted as an image."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from twinloop.runs import throughput
from twinloop.runs.throughput import MEASURED, PARTS, Throughput


def test_shares_are_of_the_time_between_marks_and_validation_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 8.0, 100.0])
    monkeypatch.setattr(throughput, "perf_counter", lambda: next(times))
    found = Throughput()
    assert found.measured() == {}
    found.skip()
    found.start_batch((torch.zeros(32, 1, 8, 8), torch.zeros(32)))
    for part in ("forward", "backward", "rest"):
        found.mark(part)
    found.skip()
    measured = found.measured()
    assert measured[f"{MEASURED}images_per_second"] == 4.0
    shares = [measured[f"{MEASURED}{part}_share"] for part in PARTS]
    assert shares == [0.125, 0.25, 0.5, 0.125]
    assert measured[f"{MEASURED}peak_memory_mib"] > 10
    assert all(name.startswith(MEASURED) for name in measured)


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (torch.zeros(3, 2), 3),
        ({"image": torch.zeros(4)}, 4),
        ([(torch.zeros(5), 1)], 5),
        (torch.tensor(1.0), 0),
        ((), 0),
        (SimpleNamespace(), 0),
    ],
)
def test_images_are_the_rows_of_the_first_tensor(batch: Any, rows: int) -> None:
    found = Throughput()
    found.start_batch(batch)
    assert found.images == rows
