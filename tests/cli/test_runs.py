"""`twinloop runs`, from what is typed to what is printed, kept and removed."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import error_line, fit, run_in
from tests.runs.test_listing import make_run
from twinloop.cli import main
from twinloop.runs.lock import lock_run
from twinloop.runs.summary import read, update
from twinloop.runs.throughput import PARTS

WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "lightning", "numpy", "yaml"))  # an import of them raises
from twinloop.cli import main
sys.exit(main(["runs", "--root", sys.argv[1]]))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished runs."""
    for number, accuracy in enumerate((0.5, 0.75)):
        lr = {"model.optimizer.lr": 0.1 / (1 + number), "model.network": "twinloop.models.MLP"}
        run = make_run(tmp_path / "mlp" / f"version_{number}-digits", accuracy, **lr)
        history = [{"epoch": 1, "val/loss": 2.0}, {"epoch": 2, "val/loss": 1.0 - number / 2}]
        results = {"versions": {"torch": f"2.{number}"}, "machine": "x", "history": history}
        (run / "results.json").write_text(json.dumps(results))
    return tmp_path


def call(root: Path, *args: str) -> int:
    return main(["runs", *args, "--root", str(root)])


@pytest.mark.usefixtures("quick")
def test_a_fit_is_listed_with_its_results_tags_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = ("--loop", "homemade")
    assert fit(tmp_path, "--model.optimizer.lr", "0.125", "--tags+=paper", *loop) == 0
    capsys.readouterr()
    assert call(tmp_path / "lightning_logs", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    results = json.loads((run_in(tmp_path) / "results.json").read_text())
    assert row["run"] == "mlp/version_0-digits"
    assert (row["state"], row["tags"], row["epochs"]) == ("finished", ["paper"], 2)
    assert row["test/accuracy"] == results["test"]["accuracy"]
    assert row["model.optimizer.lr"] == 0.125
    assert results["measured"]["images_per_second"] > 0
    assert sum(results["measured"][f"{part}_share"] for part in PARTS) == pytest.approx(1)
    assert (run_in(tmp_path) / "report.html").is_file()
    content = read(run_in(tmp_path))
    assert content["modes"] == {"loss": "min", "accuracy": "max"}
    assert content["command"].endswith("--model.optimizer.lr 0.125 --tags+=paper --loop homemade")
    assert not {"record", "model.optimizer.differentiable"} & content["settings"].keys()


def test_the_list_needs_no_torch(root: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    head, one, other = (line.split() for line in done.stdout.splitlines())
    assert head[-3:] == ["epochs", "model.optimizer.lr", "val/accuracy"]
    assert one[-2:] == ["0.1", "0.5"]
    assert other[-2:] == ["0.05", "0.75"]


def test_formats_conditions_and_the_best(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--filter", "val/accuracy>0.4", "--best", "val/accuracy", "--format", "csv")
    assert call(root, *options, "--sort", "seconds") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["run"], row["model.network"]) == ("mlp/version_1-digits", "twinloop.models.MLP")
    assert call(root, "--filter", "lr>3") == 0
    assert capsys.readouterr().out == "no runs\n"
    assert call(root, "--sort", "val/acc") == 2
    assert "there are val/accuracy" in error_line(capsys)


def test_diff_prints_what_differs_and_the_curves(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(root, "diff", "mlp/version_0-digits", str(root / "mlp/version_1-digits")) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "model.optimizer.lr 0.1 0.05" in lines
    assert "torch 2.0 2.1" in lines
    assert "val/accuracy 0.5 0.75" in lines
    assert "val/loss █▁ 2 to 1 █▁ 2 to 0.5" in lines
    assert not any(line.startswith(("machine", "model.network", "epochs")) for line in lines)
    assert call(root, "diff", "mlp/version_0-digits", "mlp/version_9-digits") == 2
    assert "there is no run mlp/version_9-digits" in error_line(capsys)


def test_rm_asks_and_takes_none_that_is_running_or_best(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worse, best = (f"mlp/version_{number}-digits" for number in range(2))
    assert call(root, "rm", worse, best, "--yes") == 2
    assert f"{best} is the best of 2 runs by val/accuracy" in error_line(capsys)
    assert call(root, "tag", worse, "best") == 0
    assert call(root, "rm", worse, "--yes") == 2
    assert "tagged `best`" in error_line(capsys)
    update(root / worse, tags=[])
    with lock_run(root / worse):
        assert call(root, "rm", worse, "--yes") == 2
    assert "is running; stop it first" in error_line(capsys)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert call(root, "rm", worse) == 0
    assert (root / worse).is_dir()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert call(root, "rm", worse) == 0
    assert not (root / worse).exists()
    assert call(root, "rm", best, "--yes") == 0  # no longer the best of several
