"""What is started, and that it comes as far as it should."""

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.start import commands, seconds_of_process


def test_a_process_that_fails_is_not_timed() -> None:
    assert 0 < seconds_of_process(["-c", ""]) < 10
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of_process(["-c", "raise SystemExit(3)"])


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["Lightning", "Learner"])
def test_a_command_ends_after_its_first_step(loop: str, tmp_path: Path) -> None:
    found = commands("digits", torch.device("cpu"), tmp_path)
    assert seconds_of_process(found[f"first step, {loop}"]) > 0
    run = tmp_path / "lightning_logs" / "lesson-classifier" / "version_0-digits"
    assert (run / "config.yaml").is_file()
    assert not (run / "checkpoints").exists()  # the first epoch has not ended


@pytest.mark.slow
def test_a_command_without_a_step_fails(tmp_path: Path) -> None:
    arguments = commands("digits", torch.device("cpu"), tmp_path)["first step, Lightning"]
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of_process([*arguments[:2], "fit", "--config", "nowhere.yaml"])
