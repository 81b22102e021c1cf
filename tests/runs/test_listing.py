"""The list of all runs: states from what a run has left, conditions, order, the best."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from twinloop.errors import UserError
from twinloop.runs import summary
from twinloop.runs.listing import (
    Listed,
    best_of_each,
    column,
    filtered,
    find_runs,
    ordered,
    varied_columns,
)
from twinloop.runs.lock import lock_run

HOLD = "import sys; from twinloop.runs.lock import lock_run; from pathlib import Path; \
lock = lock_run(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def make_run(folder: Path, accuracy: float | None = None, **settings: Any) -> Path:
    """The folder of a run of an MLP on digits, with results if it has an accuracy."""
    folder.mkdir(parents=True)
    begun = {"experiment": "mlp", "loop": "lightning", "data": "digits", "tags": []}
    modes = {"monitor": "val/accuracy", "modes": {"accuracy": "max", "loss": "min"}}
    others = {"trainer.devices": "auto"}
    summary.begin(folder, {**begun, **modes, "settings": settings, "other_settings": others})
    if accuracy is not None:
        summary.update(folder, seconds=1.5, epochs=2, val={"accuracy": accuracy, "loss": 1.0})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Listed]:
    """Three runs, of which one is deep in another folder, and one has no results."""
    network: dict[str, Any] = {"model.network": "twinloop.models.MLP"}
    make_run(tmp_path / "mlp" / "version_0-digits", 0.5, **network, **{"model.optimizer.lr": 0.1})
    deep = tmp_path / "sweeps" / "first" / "trial_1"
    make_run(deep, 0.75, **network, **{"model.optimizer.lr": 0.01})
    make_run(tmp_path / "mlp" / "version_1-digits", **network, **{"model.optimizer.lr": 1})
    return find_runs(tmp_path)


def names(runs: list[Listed]) -> list[str]:
    return [str(run.value("run")) for run in runs]


def test_runs_are_found_at_any_depth_with_facts_results_and_settings(runs: list[Listed]) -> None:
    found = ["mlp/version_0-digits", "mlp/version_1-digits", "sweeps/first/trial_1"]
    assert names(runs) == found
    row = runs[0].row
    assert (row["experiment"], row["val/accuracy"], row["model.optimizer.lr"]) == ("mlp", 0.5, 0.1)
    assert row["trainer.devices"] == "auto"
    assert varied_columns(runs) == ["model.optimizer.lr"]
    assert names(ordered(runs, "model.optimizer.lr")) == [found[2], found[0], found[1]]
    assert names(ordered(runs, "val/accuracy", reverse=True)) == [found[2], found[0], found[1]]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("val/accuracy>0.5", [2]),
        ("val/accuracy >= 0.5", [0, 2]),
        ("lr=0.1", [0]),
        ("model.lr!=1", [0, 2]),
        ("network=MLP", [0, 1, 2]),
        ("network!=twinloop.models.MLP", []),
        ("state=finished", [0, 2]),
        ("state>3", []),
        ("tags=paper", []),
    ],
)
def test_conditions_choose_runs(runs: list[Listed], condition: str, expected: list[int]) -> None:
    kept, _ = filtered(runs, [condition])
    assert names(kept) == [names(runs)[number] for number in expected]


def test_what_is_no_column_or_condition_is_refused_with_those_that_are_close(
    runs: list[Listed],
) -> None:
    with pytest.raises(UserError, match=r"'val/acuracy' is no .*; there are val/accuracy"):
        column("val/acuracy", runs)
    with pytest.raises(UserError, match="'lr' is no condition; write one such as"):
        filtered(runs, ["lr"])
    with pytest.raises(UserError, match="there is no folder"):
        find_runs(Path("nowhere"))


def test_the_best_is_by_the_metric_s_own_direction(runs: list[Listed]) -> None:
    assert names(best_of_each(runs, "val/accuracy")) == ["sweeps/first/trial_1"]
    assert names(best_of_each(runs, "val/loss")) == ["mlp/version_0-digits"]
    with pytest.raises(UserError, match=r"best 'seconds': .*there are val/accuracy, val/loss"):
        best_of_each(runs, "seconds")


def test_a_run_is_running_while_its_process_lives_and_stopped_once_it_is_killed(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert summary.state_of(run, summary.read(run)) == "running"
        os.kill(process.pid, signal.SIGKILL)
    assert summary.state_of(run, summary.read(run)) == "failed"  # nothing was saved
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert summary.state_of(run, summary.read(run)) == "stopped"


def test_an_error_is_noted_and_a_run_that_is_resumed_keeps_its_tags(tmp_path: Path) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    run = make_run(tmp_path / "run")
    with pytest.raises(Stopped), summary.noting_error(run, (Stopped,)):
        raise Stopped
    assert "error" not in summary.read(run)
    with pytest.raises(UserError), summary.noting_error(run, (Stopped,)):
        raise UserError("the loss is not finite")
    assert summary.read(run)["error"] == "the loss is not finite"
    assert summary.state_of(run, summary.read(run)) == "failed"
    summary.update(run, tags=["paper"])
    summary.begin(run, {"experiment": "mlp", "tags": [], "settings": {}})
    assert (summary.read(run)["tags"], "error" in summary.read(run)) == (["paper"], False)
    with lock_run(run):
        assert summary.state_of(run, summary.read(run)) == "running"


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: no summary of a run"):
        find_runs(tmp_path)
