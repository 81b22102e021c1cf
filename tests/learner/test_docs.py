"""The Python of the README and of the page on the Learner runs as it is there."""

import re
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


def test_every_name_that_the_page_has_for_one_of_the_lesson_is_there() -> None:
    rows = re.findall(r"^\| `[^|]+ \| `(\w+)", PAGE, re.MULTILINE)
    assert len(rows) > 10
    attributes = vars(learner.Learner(nn.Identity(), learner.DataLoaders([], [])))
    known = {*dir(learner), *dir(callbacks), *dir(models), *dir(figures), *attributes}
    assert not set(rows) - known - set(dir(learner.DataLoaders)) - {"conv"}
