"""A run that is resumed: what it keeps, what it refuses, and that it ends as if never stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import (
    STOPPED,
    assert_equal_weights,
    bytes_of,
    error_line,
    fit,
    run_in,
    saved,
    stop_in,
)
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.files import save_whole

pytestmark = pytest.mark.usefixtures("quick")
SLOW_LIGHTNING = pytest.param("lightning", marks=pytest.mark.slow)
STOP_EARLY = (
    "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",
    *("--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=9"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Loop, Path]:
    """A run of each loop, of six steps in two epochs."""
    found = {}
    for loop in LOOPS:
        folder = tmp_path_factory.mktemp(loop)
        assert fit(folder, *STOP_EARLY, "--loop", loop) == 0
        found[loop] = run_in(folder)
    return found


@pytest.mark.parametrize(
    ("options", "message", "loop"),
    [
        (["--model.optimizer.lr", "0.2"], "model.optimizer.lr 0.01, which is 0.2 now", "lightning"),
        (
            ["--trainer.callbacks.patience", "2"],
            "trainer.callbacks.0.patience 9, which is 2 now",
            "homemade",
        ),
    ],
    ids=["rate", "patience"],
)
def test_a_resumed_run_refuses_another_setting_and_changes_no_file(
    options: list[str],
    message: str,
    loop: Loop,
    runs: dict[Loop, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    last = runs[loop] / "checkpoints" / "last.ckpt"
    before = bytes_of(runs[loop])
    assert fit(tmp_path, *STOP_EARLY, *options, "--loop", loop, "--ckpt_path", str(last)) == 2
    assert f"error: {last}: this run was trained with {message}; a resumed run" in error_line(
        capsys
    )
    assert bytes_of(runs[loop]) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_renamed_run_is_resumed_in_its_folder_and_keeps_its_best(
    loop: Loop, runs: dict[Loop, Path], tmp_path: Path
) -> None:
    run = tmp_path / "my run"
    shutil.copytree(runs[loop], run)
    checkpoint = saved(run)
    checkpoint["callbacks"]["SaveCheckpoints"]["best"] = torch.tensor(1.0)  # none is better
    last = run / "checkpoints" / "last.ckpt"
    save_whole(checkpoint, last)
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    longer = ("--trainer.max_epochs", "3", "--loop", loop, "--ckpt_path", str(last.resolve()))
    assert fit(tmp_path, *STOP_EARLY, *longer) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["my run"]
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == best
    assert saved(run)["global_step"] == 9
    results = json.loads((run / "results.json").read_text())
    assert [row["epoch"] for row in results["history"]] == [1, 2, 3]
    assert results["val"]["accuracy"] == results["history"][1]["val/accuracy"]


@pytest.mark.parametrize("loop", ["homemade", SLOW_LIGHTNING])
def test_a_run_of_max_steps_is_resumed_to_more_steps(
    loop: Loop, runs: dict[Loop, Path], tmp_path: Path
) -> None:
    options = (*STOP_EARLY, "--loop", loop, "--trainer.max_steps")
    assert fit(tmp_path, *options, "3") == 0
    assert saved(run_in(tmp_path))["global_step"] == 3
    assert fit(tmp_path, *options, "6", "--ckpt_path", "last") == 0
    ended, whole = saved(run_in(tmp_path)), saved(runs[loop])
    assert ended["global_step"] == 6
    assert_equal_weights(ended, whole)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["homemade", SLOW_LIGHTNING])
def test_a_run_that_ended_inside_an_epoch_cannot_be_made_longer(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--loop", loop, "--trainer.max_steps")
    assert fit(tmp_path, *options, "2") == 0
    capsys.readouterr()
    before = bytes_of(run_in(tmp_path))
    assert fit(tmp_path, *options, "6", "--ckpt_path", "last") == 2
    assert "this run ended inside an epoch (max_steps or early stopping) and cannot" in error_line(
        capsys
    )
    assert bytes_of(run_in(tmp_path)) == before
    assert fit(tmp_path, *options, "2", "--ckpt_path", "last") == 0
    assert saved(run_in(tmp_path))["global_step"] == 2


@pytest.mark.parametrize("loop", ["homemade", SLOW_LIGHTNING])
def test_a_complete_run_is_only_evaluated_again_in_its_own_folder(
    loop: Loop, runs: dict[Loop, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    shutil.copytree(runs[loop], run)
    (run / "results.json").unlink()
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    command = (*STOP_EARLY, "--loop", loop, "--ckpt_path")
    assert fit(tmp_path, *command, str(last)) == 0
    assert last.read_bytes() == before
    assert json.loads((run / "results.json").read_text())["epochs"] == 2

    elsewhere = tmp_path / "elsewhere.ckpt"
    shutil.copy(last, elsewhere)
    assert fit(tmp_path, *command, str(elsewhere)) == 2
    assert f"error: {elsewhere}: nothing is left to train" in error_line(capsys)
    assert not list(tmp_path.glob("lightning_logs/*/*/*"))


ACCUMULATED = (
    *("--data.batch_size", "32", "--trainer.limit_train_batches", "6"),
    *("--trainer.accumulate_grad_batches", "2", "--loop"),
)


def rows(checkpoint: dict[str, Any]) -> list[dict[str, float]]:
    """The history without its times."""
    history = checkpoint["callbacks"]["KeepHistory"]["rows"]
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interval", "place"),
    [("2", "in the validation of epoch 1"), ("3", "in epoch 1 after batch 4")],
    ids=["after a step", "between two steps"],
)
def test_a_stop_in_a_validation_inside_an_epoch_is_resumed_to_the_same_bits(
    interval: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = ("--trainer.val_check_interval", interval)
    assert fit(tmp_path / "whole", *every, *ACCUMULATED, "lightning") == 0
    whole = saved(run_in(tmp_path / "whole"))
    for loop in LOOPS:
        with monkeypatch.context() as patch:
            stop_in(lambda found, number: not found.shuffle and number == 2, patch)
            assert fit(tmp_path / loop, *every, *ACCUMULATED, loop) == STOPPED
        assert f"stopped by SIGTERM {place}, saved in " in capsys.readouterr().out
        resumed = (*every, *ACCUMULATED, loop, "--ckpt_path", "last")
        if loop == LOOPS[0]:
            assert fit(tmp_path / loop, *resumed, "--data.batch_size", "64") == 2
            assert "data.batch_size 32, which is 64 now" in error_line(capsys)
        assert fit(tmp_path / loop, *resumed) == 0
        ended = saved(run_in(tmp_path / loop))
        assert_equal_weights(ended, whole)
        assert rows(ended) == rows(whole)
        optimizers = (found["optimizer_states"][0]["state"] for found in (ended, whole))
        for one, other in zip(*(state.values() for state in optimizers), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
