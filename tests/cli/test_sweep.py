"""`python -m twinloop sweep`: what a user types, what is printed and left, and mistakes."""

import re
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import COMMAND, error_line, make_quick, stop_at
from tests.faults.moments import COMMITS, Moment
from tests.faults.sweeps import SWEEP, differences, kill, rows, sweep, uninterrupted
from twinloop.cli import main
from twinloop.errors import UserError

SETTINGS = "{settings: {model.network.hidden: [8, 16]}}"


def sweep_with(text: str, folder: Path, *options: str) -> int:
    """Sweep with a file of this text, or a file that is missing if there is none."""
    path = folder / "sweep.yaml"
    if text:
        path.write_text(text)
    root = ("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "1")
    return main(["sweep", "--sweep", str(path), *COMMAND, *root, *options])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """An uninterrupted sweep of the homemade loop, the cache, and how many calls it had."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        counted = uninterrupted(folder / "whole", folder / "cache")
    return folder / "whole" / "sweep", folder / "cache", counted


@pytest.mark.slow
def test_the_other_loop_has_the_same_trials_also_after_a_stop(
    whole: tuple[Path, Path, dict[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_quick(monkeypatch)
    command = sweep("lightning", tmp_path, whole[1])
    with monkeypatch.context() as patch:
        stop_at(1, 1, patch)
        assert main(command) == 143
    folder = tmp_path / "sweep"
    assert capsys.readouterr().err.endswith(f": resume with --folder {folder}\n")
    assert main(command) == 0
    assert differences(folder, whole[0]) == []
    trials = {row[0]: row[1] for row in rows(folder) if isinstance(row[1], str)}
    assert list(trials) == list(range(5))
    for number, state in trials.items():
        assert (folder / f"trial-{number}" / "results.json").is_file() == (state == "COMPLETE")
        assert (folder / f"trial-{number}" / "config.yaml").is_file()
    (best,) = re.findall(r"(\d+) \* +│ finished", capsys.readouterr().out)
    found = yaml.safe_load((folder / "best.yaml").read_text())
    assert found == yaml.safe_load((folder / f"trial-{best}" / "config.yaml").read_text())
    page = (folder / "sweep.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"https?:|src=|@import|<link", page)
    assert main(["fit", f"--config={folder / 'best.yaml'}", "--trainer.fast_dev_run=1"]) == 0
    capsys.readouterr()
    assert main([*command, "--trainer.max_epochs", "9"]) == 2
    assert "the study was begun with trainer.max_epochs 3, which is 9 now" in error_line(capsys)
    (tmp_path / "sweep.yml").write_text(SWEEP.replace("high: 32", "high: 40"))
    assert main(command) == 2
    assert "begun with settings.model.network.hidden.high 32, which is 40" in error_line(capsys)


@pytest.mark.slow
def test_a_killed_sweep_loses_no_trial_and_runs_none_twice(
    whole: tuple[Path, Path, dict[str, int]], tmp_path: Path
) -> None:
    moment = Moment(COMMITS, whole[2][COMMITS] // 2, (signal.SIGKILL,))
    assert kill(whole[0], moment, "homemade", tmp_path, whole[1])


@pytest.mark.slow
def test_workers_share_one_study(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    options = sweep("homemade", tmp_path / "grid", tmp_path / "cache", "--workers", "2")
    grid = "{sampler: grid, settings: {model.network.hidden: [8, 16], data.batch_size: [64, 128]}}"
    (tmp_path / "grid" / "sweep.yml").write_text(grid)
    assert main(options) == 0
    printed = capfd.readouterr().out
    assert printed.count("best.yaml") == 1
    assert sorted(re.findall(r"^trial (\d)", printed, re.M)) == ["0", "1", "2", "3"]
    found = [row[1] for row in rows(tmp_path / "grid" / "sweep") if isinstance(row[1], str)]
    assert found == 8 * ["COMPLETE"]  # a row for each of two settings


MISTAKES: dict[str, tuple[str, list[str], str]] = {
    "no file": ("", [], "--sweep: there is no file"),
    "invalid YAML": ("{", [], "invalid YAML"),
    "no worker": (SETTINGS, ["--workers", "0"], "must be at least 1"),
    "unknown setting": ("{settings: {model.network.hiden: [8]}}", [], "sweep.yaml: with model.net"),
    "wrong type": ("{settings: {data.batch_size: [8, big]}}", [], "with data.batch_size 'big'"),
    "invalid value": ("{settings: {data.batch_size: {low: 0, high: 9}}}", [], "batch_size is 0"),
    "no metric": ("metric: val/f1\n" + SETTINGS[1:-1], [], "metric is 'val/f1', which is not mea"),
    "no direction": ("metric: val/loss\n" + SETTINGS[1:-1], [], "direction is not set; set mini"),
    "own folder": (SETTINGS, ["--run_folder", "run"], "a sweep trains each trial once"),
    "a file": (SETTINGS, ["--folder", __file__], "test_sweep.py: File exists; name another"),
    "nothing to resume": (SETTINGS, ["--resume"], "there is no sweep_<number> in"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_in_one_line_before_any_training(
    text: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("optuna")
    assert sweep_with(text, tmp_path, *options) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.rglob("study.db"))


def test_the_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(module: str, extra: str) -> Any:
        raise UserError(f"{module}: install the extra {extra!r}")

    monkeypatch.setattr("twinloop.cli.sweep.import_extra", missing)
    assert sweep_with(SETTINGS, tmp_path) == 2
    assert error_line(capsys) == "error: optuna: install the extra 'sweep'\n"


@pytest.mark.slow
def test_a_trial_that_fails_is_told_apart_and_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    text = "{sampler: grid, settings: {model.optimizer.lr: [1.0e+30, 0.01]}}"
    elsewhere = ("--storage", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert sweep_with(text, tmp_path, "--model.schedule", "null", *elsewhere) == 0
    assert "trial 0: the loss is" in capsys.readouterr().out
    assert not list(tmp_path.rglob("study.db"))
    connection = sqlite3.connect(tmp_path / "elsewhere.db")
    states = connection.execute("SELECT state FROM trials ORDER BY number").fetchall()
    connection.close()
    assert states == [("FAIL",), ("COMPLETE",)]
