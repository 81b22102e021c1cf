"""A folder that `export` has written stands for its run in other commands, except to resume it."""

from pathlib import Path

import pytest

from tests.commands import COMMAND, assert_equal_weights, error_line, fit, run_in, saved
from twinloop.cli import main
from twinloop.loops import LOOPS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]


def test_other_commands_take_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path / "first") == 0
    run, export = run_in(tmp_path / "first"), tmp_path / "export"
    assert main(["export", str(run), "--output", str(export), "--formats", "safetensors"]) == 0
    weights = export / "model.safetensors"
    for loop in LOOPS:  # with a rate of 0 a run ends with the weights that it began with
        still = ("--model.optimizer.lr", "0", "--loop", loop, "--weights", str(export))
        assert fit(tmp_path / loop, *still) == 0
        assert f"weights: 4 of 4 tensors from {weights}\n" in capsys.readouterr().out
        assert_equal_weights(saved(run_in(tmp_path / loop)), saved(run, "best"))

    printed = []
    for place in (run, export, run / "checkpoints" / "best.ckpt"):
        assert main(["test", *COMMAND, "--ckpt_path", str(place)]) == 0
        checkpoint, *metrics = capsys.readouterr().out.splitlines()
        assert checkpoint.startswith(f"checkpoint: {place}")
        printed.append(metrics)
    assert printed[0] == printed[1] == printed[2] != []

    assert fit(tmp_path / "more", "--ckpt_path", str(weights)) == 2
    line = f"error: {weights}: has no state of training to resume; begin a new run with --weights"
    assert error_line(capsys).startswith(line)


def test_weights_of_nowhere_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, "--weights", str(tmp_path / "nothing")) == 2
    line = f"error: {tmp_path}/nothing: there is no such run or checkpoint\n"
    assert error_line(capsys) == line
