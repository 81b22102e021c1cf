"""The report of a run says what was asked, what came out, and needs nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD

from tests.commands import fit, run_in
from twinloop.data.datamodule import ImageDataModule
from twinloop.models import MLP
from twinloop.runs import report, results
from twinloop.runs.report import write_report
from twinloop.tasks import Classification

RESULTS: dict[str, Any] = {
    **{"experiment": "<mlp>", "loop": "homemade", "epochs": 2, "seed": 42, "tags": ["paper"]},
    **{"notes": None, "parameters": 37_610, "flops": 75_000, "commit": "abc123"},
    **{"uncommitted_changes": True, "machine": "x86_64, 2 cores", "device": "cpu"},
    "dataset": {"name": "digits", "fingerprint": "f00d", "sizes": {"train": 1372}, "notes": []},
    "versions": {"torch": "2.13.0"},
    "seconds": {"total": 1.5},
    "measured": {"images_per_second": 1234.5, "peak_memory_mib": 446.4}
    | {f"{part}_share": 0.25 for part in ("data", "forward", "backward", "rest")},
    "val": {"loss": 0.5, "accuracy": 0.75},
    "test": {"accuracy": 0.625, "class_accuracy": {"zero": 1.0}},
    "history": [
        {"epoch": 1, "seconds": 1.0, "train/loss": 2.0, "val/loss": 1.0},
        {"epoch": 2, "seconds": 1.0, "train/loss": 1.0, "val/loss": float("nan")},
    ],
}
SUMMARY = {
    **{"started": "2026-11-26T12:00:00+00:00", "monitor": "val/accuracy"},
    **{"command": "twinloop fit --config my.yaml", "settings": {"model.optimizer.lr": 0.125}},
}


def test_the_report_has_settings_results_curves_figures_costs_and_command(tmp_path: Path) -> None:
    (tmp_path / "confusion.png").write_bytes(b"image")
    write_report(tmp_path, RESULTS, SUMMARY, {"accuracy": "share"})
    page = (tmp_path / "report.html").read_text()
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S).split())
    for shown in (
        *("&lt;mlp&gt; on digits", "accuracy 0.75 0.625 share", "loss 0.5 -", "tags: paper"),
        *("model.optimizer.lr 0.125", "twinloop fit --config my.yaml", "abc123, and changes.patch"),
        *("images per second 1,234", "peak memory, MiB 446.4", "75,000 FLOPs", "data 25 %"),
        *("torch 2.13.0", "x86_64, 2 cores, cpu", "loss, 1 to 2", "2026-11-26 12:00"),
    ):
        assert shown in text, shown
    assert "class_accuracy" not in text
    assert 'class="train" points="0.0,0.0 320.0,160.0 "' in page
    assert 'class="val" cx="0.0" cy="160.0"' in page
    assert "data:image/png;base64,aW1hZ2U=" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|https?://', page)


def test_a_run_without_epochs_labels_or_measurements_has_a_report_too(tmp_path: Path) -> None:
    none: dict[str, Any] = {
        "history": [],
        "measured": {},
        "test": {},
        "val": {},
        "flops": None,
        "commit": None,
    }
    write_report(tmp_path, RESULTS | none, SUMMARY | {"settings": {}, "monitor": None}, {})
    page = (tmp_path / "report.html").read_text()
    assert "Curves" not in page
    assert "unknown" in page


def test_operations_are_those_of_one_image_forward(digits: ImageDataModule) -> None:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec).train()
    assert results.count_operations(task) == 2 * (64 * 50 + 50 * 10)
    assert task.training


@pytest.mark.usefixtures("quick")
def test_a_report_that_fails_is_said_in_a_line_and_the_run_keeps_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no\npage")

    monkeypatch.setattr(report, "write_report", fail)
    assert fit(tmp_path, "--loop", "homemade") == 0
    assert "report.html is left out: ValueError: no\n" in capsys.readouterr().out
    assert (run_in(tmp_path) / "results.json").is_file()
