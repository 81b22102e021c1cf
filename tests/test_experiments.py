"""Every file under experiments/ runs, and says what it is for."""

import re
from pathlib import Path

import pytest

from twinloop.cli import main

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.yaml"))
OF_LIBRARIES = [path for path in EXPERIMENTS if path.stem.startswith(("timm-", "torchvision-"))]
"""Those that need an extra; tests/models/test_libraries.py runs them."""


def test_all_experiments_are_found() -> None:
    assert len(EXPERIMENTS) >= 13
    assert len(OF_LIBRARIES) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted({*EXPERIMENTS} - {*OF_LIBRARIES}), ids=lambda path: path.stem
)
def test_an_experiment_runs(path: Path, tmp_path: Path) -> None:
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    assert main(["fit", "--config", str(path), *options, *short]) == 0
    # Runs are kept under the name of the file.
    run = tmp_path / "lightning_logs" / path.stem / "version_0-digits"
    assert (run / "results.json").is_file()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_has_a_header(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    names = [match[1] for line in header if (match := re.match(r"# (\w+): +\S", line))]
    assert names == ["Goal", "Command", "Machine", "Time", "Result"]
