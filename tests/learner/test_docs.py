"""The Python of the README and of the page on the Learner runs as it is there."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from twinloop import figures, learner, models
from twinloop.learner import callbacks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "learner.md").read_text()


def run(page: str) -> dict[str, Any]:
    """Run the Python of a page, and return the names that it has defined."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    return names


def test_the_page_trains_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(PAGE)["learn"].metrics["val/accuracy"] > 0.5
    assert capsys.readouterr().out.count("val/accuracy") == 3


def test_the_readme_trains_both_networks(capsys: pytest.CaptureFixture[str]) -> None:
    run((ROOT / "README.md").read_text())
    losses = [float(loss) for loss in re.findall(r"train/loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 4
    assert losses[1] < losses[0]
    assert losses[3] < losses[2]


STEPS = [
    "kernels, im2col",
    *("CNN", "autoencoder", "first Learner", "metrics, callbacks"),
    *("learning-rate finder", "momentum", "schedules"),
]


def lesson(source: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run `docs/lesson.py`, and return what it says of its steps."""
    runpy.run_path(str(ROOT / "docs" / "lesson.py"))["main"](source)
    said = capsys.readouterr().out.splitlines()
    steps = [line for line in said if re.search("  same | learning rate ", line)]
    assert [line[:20].rstrip() for line in steps if line[0] != " "] == STEPS
    return steps


@pytest.mark.slow
def test_the_lesson_ends_with_the_bits_of_plain_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    assert "same 3,600 responses" in lesson("digits", capsys)[0]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1200)
def test_the_lesson_on_real_data(fashion_mnist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = lesson(str(fashion_mnist), capsys)
    (right,) = (int(line.split()[1]) for line in steps if "classified right" in line)
    assert right > 0.6 * 5_000  # it has learned in the one epoch


def test_a_bit_that_differs_in_the_lesson_is_an_error() -> None:
    names = runpy.run_path(str(ROOT / "docs" / "lesson.py"))
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    names["same"]("equal", one, other)
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    with pytest.raises(AssertionError, match="not equal"):
        names["same"]("not equal", one, other)


def test_every_name_that_the_page_has_for_one_of_the_lesson_is_there() -> None:
    rows = re.findall(r"^\| `[^|]+ \| `(\w+)", PAGE, re.MULTILINE)
    assert len(rows) > 10
    attributes = vars(learner.Learner(nn.Identity(), learner.DataLoaders([], [])))
    known = {*dir(learner), *dir(callbacks), *dir(models), *dir(figures), *attributes}
    assert not set(rows) - known - set(dir(learner.DataLoaders)) - {"conv"}
