"""The page of a comparison has what was recorded, counterparts beside each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from twinloop.comparison import report
from twinloop.learner.callbacks.trace import Traced
from twinloop.runs.record import Record
from twinloop.runs.timings import EventTimings, write_timings

EVENTS = {
    "lightning": ["on_fit_start", *2 * ["on_train_batch_start", "on_train_batch_end"]],
    "homemade": ["before_fit", *2 * ["before_batch", "after_batch", "cleanup_batch"]],
}
COMPARISON: dict[str, Any] = {
    "experiment": "mlp",
    "command": "python -m twinloop compare",
    "verdicts": {"42": "identical: 6 steps", "43": "DIFFERENT in 1 places"},
    "costs": {"seconds": {"lightning": [2.0, 4.0, 3.0], "homemade": [1.0, 1.0, 1.5]}},
    "results": {
        "lightning-42": {
            "dataset": {"name": "digits"},
            **{"machine": "a CPU", "device": "cpu", "versions": {"torch": "2", "lightning": "3"}},
        }
    },
}


@pytest.fixture
def page(tmp_path: Path) -> str:
    for loop, names in EVENTS.items():
        (tmp_path / loop).mkdir()
        events = [Traced(name, "train", 0, 0) for name in names]
        times = [float(number) for number in range(len(names))]
        steps = [{"loss": torch.tensor(1.0)}]
        write_timings(tmp_path / loop, EventTimings(events, times), Record(steps=steps))
        Image.new("L", (2, 2)).save(tmp_path / loop / "confusion.png")
    return report.page(COMPARISON, tmp_path / "lightning", tmp_path / "homemade")


def rows(page: str) -> list[list[str]]:
    """The cells of every row of a table, as text."""
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL)
        if "<td" in row
    ]


def test_the_page_has_verdicts_costs_and_figures(page: str) -> None:
    assert "<title>mlp on digits, in both loops</title>" in page
    assert "a CPU, cpu; torch 2, lightning 3</p>" in page
    assert '<p class="verdict"><b>seed 42</b> identical: 6 steps</p>' in page
    assert '<p class="verdict bad"><b>seed 43</b> DIFFERENT in 1 places</p>' in page
    assert ["seconds", "3 (2 to 4)", "1 (1 to 1.5)", "0.500"] in rows(page)
    assert re.findall(r'<img alt="(.*?)" src="data:image/png;base64,iVBOR', page) == [
        "loss and its difference by step",
        *(f"confusion.png of the {loop} loop" for loop in EVENTS),
    ]


def test_hooks_are_beside_their_counterparts(page: str) -> None:
    found = [row for row in rows(page) if len(row) == 2]
    step = [
        ["on_train_batch_start", "train before_batch"],
        ["on_train_batch_end", "train after_batch"],
        ["", "train cleanup_batch"],
    ]
    assert found == [*step, ["on_fit_start", ""], ["", "before_fit"], *step]


def test_the_slowest_hooks_come_first(page: str) -> None:
    assert ["train on_train_batch_start", "2", "2.000 s", "1,000,000 µs"] in rows(page)
