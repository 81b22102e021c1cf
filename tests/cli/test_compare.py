"""`python -m twinloop compare`, from the command to the page."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import EXPERIMENT as CONFIG
from tests.commands import error_line, make_quick
from twinloop.cli import main
from twinloop.cli.compare import wait
from twinloop.comparison.parity import LOOPS


def options(folder: Path) -> list[str]:
    root = ["--data.source", "digits", "--trainer.default_root_dir", str(folder)]
    return [*root, "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"]


def compare(folder: Path, *extra: str) -> int:
    return main(["compare", "--config", CONFIG, *options(folder), *extra])


def change_a_weight(path: Path) -> None:
    checkpoint = torch.load(path)
    weight = checkpoint["state_dict"]["network.layers.1.bias"]
    weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
    torch.save(checkpoint, path)


@pytest.mark.slow
def test_a_comparison_is_made_resumed_and_fails_where_a_bit_differs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--seeds", "2") == 0
    folder = tmp_path / "lightning_logs" / "mlp" / "compare_0"
    printed = capfd.readouterr().out
    assert "seed 42: identical: 6 steps, every loss, 3,760 weights, optimiser state" in printed
    assert "seed 43: identical: 6 steps, 3,760 weights" in printed
    assert "lines of the loop's code" in printed

    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["identical"] is True
    assert comparison["command"].startswith("python -m twinloop compare --config ")
    for name, cost in comparison["costs"].items():
        assert cost.keys() == set(LOOPS), name
        assert all(value > 0 for values in cost.values() for value in values), name
    lines = comparison["costs"]["lines of the loop's code in two steps"]
    assert lines["homemade"][0] < lines["lightning"][0]

    page = (folder / "comparison.html").read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png)', page)
    for part in ("on_before_optimizer_step", "train before_step", "identical: 6 steps"):
        assert part in page

    # What is finished is kept, what is not is trained again, and only that.
    first = folder / "lightning-42" / "results.json"
    written = first.stat().st_mtime_ns
    (folder / "homemade-42" / "results.json").unlink()
    assert compare(tmp_path, "--seeds", "2", "--resume") == 0
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == ["compare_0"]

    # One bit of one weight is enough.
    capfd.readouterr()
    change_a_weight(folder / "homemade-43" / "checkpoints" / "last.ckpt")
    assert compare(tmp_path, "--seeds", "2", "--resume") == 1
    printed = capfd.readouterr().out
    assert "seed 43: DIFFERENT in 1 places, first state_dict: /network.layers.1.bias" in printed
    assert "1 units in the last place" in printed
    assert json.loads((folder / "comparison.json").read_text())["identical"] is False


@pytest.mark.parametrize(
    ("platform", "units"), [("linux", 1), ("darwin", 1024), ("win32", math.nan)]
)
def test_the_peak_memory_of_a_run_is_in_mebibytes(
    platform: str, units: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux counts in KiB, macOS in bytes; Windows does not count."""
    monkeypatch.setattr(sys, "platform", platform)
    command = [sys.executable, "-S", "-c", "b'x' * 2**28; raise SystemExit(3)"]
    with subprocess.Popen(command) as process:
        found = wait(process) * units
    assert process.returncode == 3
    assert math.isnan(units) or 256 < found < 4096


@pytest.mark.slow
def test_runs_that_save_nothing_are_not_compared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--trainer.fast_dev_run", "1") == 2
    assert capfd.readouterr().err.startswith("error: a run with trainer.fast_dev_run writes")


def test_earlier_runs_are_compared_by_their_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quick(monkeypatch)
    for loop in LOOPS:
        assert main(["fit", "--config", CONFIG, *options(tmp_path), "--loop", loop]) == 0
    runs = tmp_path / "lightning_logs" / "mlp"
    against = runs / "version_0-digits" / "checkpoints" / "last.ckpt"
    assert compare(tmp_path, "--against", str(against)) == 0
    assert "identical: weights, optimiser state and schedule" in capsys.readouterr().out
    change_a_weight(against)
    assert compare(tmp_path, "--against", str(against)) == 1
    assert "DIFFERENT in 1 places" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--resume"], "there is no compare_<number> in"),
        (["--against", "nothing.ckpt"], "has no run of 'mlp'"),
        (["--config", "nowhere.yaml"], "config: there is no file nowhere.yaml"),
        (["--seeds", "0"], "--seeds is 0; it must be from 1 to 1,000"),
        (["--seeds", "1000000000000"], "--seeds is 1,000,000,000,000; it must be from 1 to 1,000"),
        (["--seeds", "two"], "argument --seeds: invalid int value: 'two'"),
    ],
)
def test_a_mistake_ends_in_one_line(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, *extra) == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize(
    ("first", "seeds", "message"),
    [
        (
            2**32,
            "1",
            "seed_everything is 4294967296; several seeds count up from an integer from 0",
        ),
        (2**32 - 2, "3", "--seeds is 3; it must be from 1 to 2"),
        ("true", "1", "seed_everything is True; several seeds count up from an integer from 0"),
    ],
)
def test_an_invalid_seed_is_refused(
    first: int | str, seeds: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mlp.yaml"
    text = Path(CONFIG).read_text()
    config.write_text(text.replace("seed_everything: 42", f"seed_everything: {first}"))
    assert main(["compare", "--config", str(config), *options(tmp_path), "--seeds", seeds]) == 2
    assert message in error_line(capsys)


def test_a_file_in_place_of_the_log_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lightning_logs").write_text("no folder")
    for command in ("compare", "fit"):
        assert main([command, "--config", CONFIG, *options(tmp_path)]) == 2
        line = error_line(capsys)
        assert re.fullmatch(r"error: cannot make the run folder .+: Not a directory\n", line), line


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_finished_runs_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--data.batch_size", "0") == 2
    error: Any = capfd.readouterr().err.splitlines()
    assert "data.batch_size is 0" in error[0]
    assert "the lightning run of seed 42 ended with status 2" in error[1]
    assert "resume with --resume" in error[1]
