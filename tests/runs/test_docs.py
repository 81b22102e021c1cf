"""The Python of the page on models runs as it is there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twinloop
from tests.commands import fit
from twinloop.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_page_loads_and_exports_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit(tmp_path) == 0
    Path("my-images").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (50, 40), (30, 90, 200)).save(f"my-images/{name}.png")
    assert main(["export", "lightning_logs/mlp/version_0-digits"]) == 0
    capsys.readouterr()
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert re.fullmatch(r"(my-images/\w+\.png \d\n){2}", capsys.readouterr().out)
    assert names["task"].label_smoothing == 0.1
    answered = twinloop.load("lightning_logs/mlp/version_0-digits")(names["images"].float() / 255)
    np.testing.assert_allclose(names["logits"], answered.detach().numpy(), atol=1e-6)
