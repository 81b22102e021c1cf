"""What the experiments reach is read off their runs, and a run is not made twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import quality, report


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were called; each leaves results, better with every call."""
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        called.append(command)
        folder = Path(command[command.index("--run") + 1])
        folder.mkdir(parents=True)
        test = {"mse": 0.03 / len(called), "pca_mse": 0.03, "accuracy": 0.93 + len(called) / 2000}
        seconds = {"total": 9.7}
        results = {"test": test, "seconds": seconds, "seed": 42, "commit": "0123456789abcdef"}
        (folder / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(quality, "ROOT", tmp_path)
    monkeypatch.setattr("subprocess.run", run)
    return called


def test_every_size_and_seed_is_trained_once(commands: list[list[str]]) -> None:
    rows = quality.measure("digits", torch.device("cpu"), rounds=2)
    assert rows == quality.measure("digits", torch.device("cpu"), rounds=2)
    assert len(commands) == len(quality.CODE_SIZES) + 2
    first, last = commands[0], commands[-1]
    assert first[first.index("--model.network.code_size") + 1] == "4"
    assert first[first.index("--trainer.max_epochs") + 1] == "10"
    assert last[last.index("--seed_everything") + 1] == "43"
    assert [row["share"] for row in rows[:3]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [row["met"] for row in rows[:3]] == [False, False, True]

    text = report.section("quality", {"about": ABOUT, "rows": rows})
    assert "| 4 | 10 | 0.0300 | 0.0300 | 1.00 **missed** | 10 | 42 | 0123456789 |" in text
    assert "| 16 | 10 | 0.0100 | 0.0300 | 0.33 met | 10 | 42 | 0123456789 |" in text
    reached = "| 0.9333 | 0.0004 | > 0.934 **missed** | 42: 0.9330, 42: 0.9335 | 10 | 2 |"
    assert f"| classifier-5-epochs {reached}" in text
    lines = {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist()
        for line in report.plot_quality(rows).axes[0].lines
    }
    assert lines["PCA"] == [0.03] * 5
    assert lines["autoencoder"] == [row["mse"] for row in rows[:5]]


ABOUT = {
    "machine": "2 cores",
    "device": "cpu",
    "threads": 1,
    "data": "digits",
    "versions": {"torch": "2.13"},
    "commit": None,
    "seconds": 7,
}
