"""What the page on the Learner says to type is typed in."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "learner.md"


def test_the_page_trains_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert names["learn"].metrics["val/accuracy"] > 0.5
    assert capsys.readouterr().out.count("val/accuracy") == 3
