"""A run that a signal stops is resumed by either loop, to the bits of an uninterrupted run."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import commands
from tests.commands import STOPPED, run_in, saved, stop_at
from twinloop.comparison.parity import LOOPS, Loop

pytestmark = pytest.mark.usefixtures("quick")


def fit(loop: str, folder: Path, *options: str) -> int:
    """Train a denoising autoencoder, whose noise draws random numbers, for 20 steps."""
    longer = ("--trainer.max_epochs", "5", "--trainer.limit_train_batches", "4", "--loop", loop)
    small = ("--model.network.widths", "[4,8]", "--model.schedule=twinloop.tasks.OneCycle")
    return commands.fit(folder, *longer, *small, *options, experiment="denoising-autoencoder")


def last(folder: Path) -> dict[str, Any]:
    return saved(run_in(folder))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert fit("lightning", folder) == 0
    return last(folder)


def assert_equal(one: Any, other: Any, path: str = "") -> None:
    """Compare two checkpoints: the same keys everywhere, and the same bits in every tensor."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            # Paths and times are a run's own.
            if key not in ("default_root_dir", "loop", "seconds"):
                assert_equal(value, other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{path}/{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def test_a_checkpoint_is_lightnings_whichever_loop_saved_it(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    assert fit("homemade", tmp_path) == 0
    found = last(tmp_path)
    assert found["callbacks"]["KeepHistory"].pop("trained_by") == ["homemade"]
    wanted = {**uninterrupted, "callbacks": dict(uninterrupted["callbacks"])}
    wanted["callbacks"]["KeepHistory"] = dict(wanted["callbacks"]["KeepHistory"])
    assert wanted["callbacks"]["KeepHistory"].pop("trained_by") == ["lightning"]
    assert_equal(found, wanted)


@pytest.mark.parametrize(
    ("first", "second", "batch"),
    [
        ("lightning", "homemade", 2),
        # The last batch of its epoch.
        pytest.param("homemade", "lightning", 4, marks=pytest.mark.slow),
        pytest.param("lightning", "lightning", 4, marks=pytest.mark.slow),
        pytest.param("homemade", "homemade", 2, marks=pytest.mark.slow),
    ],
)
def test_either_loop_resumes_a_run_that_sigterm_stopped(
    first: Loop,
    second: Loop,
    batch: int,
    tmp_path: Path,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_at(2, batch, patch)
        assert fit(first, tmp_path) == STOPPED
    printed = capsys.readouterr().out
    assert "stopped by SIGTERM" in printed
    assert ("in epoch 3 after batch 2" if batch == 2 else "in the validation of epoch 3") in printed
    assert last(tmp_path)["global_step"] == 8 + batch
    assert fit(second, tmp_path, "--ckpt_path", "last") == 0
    ended = last(tmp_path)
    assert_equal(ended["state_dict"], uninterrupted["state_dict"])
    assert_equal(ended["optimizer_states"], uninterrupted["optimizer_states"])
    assert_equal(ended["lr_schedulers"], uninterrupted["lr_schedulers"])
    # Of the epoch that was cut in two the seconds are of its second part, the metrics of both.
    assert all(0 < row["seconds"] < 100 for row in ended["callbacks"]["KeepHistory"]["rows"])
    history = ended["callbacks"]["KeepHistory"]
    assert history["trained_by"] == list(dict.fromkeys([first, second]))
    assert_equal(history["rows"], uninterrupted["callbacks"]["KeepHistory"]["rows"])
    (results,) = tmp_path.rglob("results.json")
    assert json.loads(results.read_text())["trained_by"] == history["trained_by"]


@pytest.mark.slow
def test_lightning_resumes_inside_an_epoch_without_a_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = ("--model.schedule", "null")
    assert fit("lightning", tmp_path / "whole", *constant) == 0
    with monkeypatch.context() as patch:
        stop_at(1, 3, patch)
        assert fit("lightning", tmp_path / "parts", *constant) == STOPPED
    assert fit("lightning", tmp_path / "parts", *constant, "--ckpt_path", "last") == 0
    one, other = (last(tmp_path / name) for name in ("whole", "parts"))
    assert_equal(other["state_dict"], one["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_sigterm_waits_for_the_step_of_accumulated_batches(
    loop: Loop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accumulated = ("--trainer.accumulate_grad_batches", "2", "--trainer.max_epochs", "2")
    assert fit(loop, tmp_path / "whole", *accumulated) == 0
    with monkeypatch.context() as patch:
        stop_at(1, 1, patch)
        assert fit(loop, tmp_path / "parts", *accumulated) == STOPPED
    assert "in epoch 2 after batch 2" in capsys.readouterr().out
    assert fit(loop, tmp_path / "parts", *accumulated, "--ckpt_path", "last") == 0
    one, other = (last(tmp_path / name) for name in ("whole", "parts"))
    assert_equal(other["state_dict"], one["state_dict"])
    assert_equal(other["optimizer_states"], one["optimizer_states"])


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_plateau_schedule_sees_an_epoch_that_was_interrupted(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plateau = ("--model.schedule", "twinloop.tasks.Plateau")
    with monkeypatch.context() as patch:
        stop_at(2, 4, patch)
        assert fit(loop, tmp_path, *plateau) == STOPPED
    assert fit(loop, tmp_path, *plateau, "--ckpt_path", "last") == 0
    assert last(tmp_path)["lr_schedulers"][0]["last_epoch"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_plateau_schedule_is_shown_the_epoch_that_a_checkpoint_was_saved_at(
    loop: Loop, tmp_path: Path
) -> None:
    # Lightning saves an epoch before ReduceLROnPlateau has seen its metric.
    plateau = ("--model.schedule", "twinloop.tasks.Plateau", "--model.schedule.patience", "0")
    assert fit(loop, tmp_path / "whole", *plateau) == 0
    assert fit(loop, tmp_path / "parts", *plateau, "--trainer.max_epochs", "3") == 0
    assert fit(loop, tmp_path / "parts", *plateau, "--ckpt_path", "last") == 0
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(parts[name], whole[name])
    assert parts["lr_schedulers"][0]["last_epoch"] == 4


def test_a_run_restores_the_signal_handlers(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert fit("homemade", tmp_path, "--trainer.max_epochs", "1") == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "validates",
    [
        ("--trainer.val_check_interval", "2"),  # once before the stop, in the same epoch
        ("--trainer.check_val_every_n_epoch", "2"),  # last in the epoch before
    ],
    ids=["twice an epoch", "every 2 epochs"],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_validations_before_a_stop_are_counted_after_it(
    loop: Loop, validates: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(loop, tmp_path / "whole", *validates) == 0
    with monkeypatch.context() as patch:
        stop_at(4, 3, patch)
        assert fit(loop, tmp_path / "parts", *validates) == STOPPED
    assert fit(loop, tmp_path / "parts", *validates, "--ckpt_path", "last") == 0
    whole, parts = (last(tmp_path / name)["loops"] for name in ("whole", "parts"))
    assert parts == whole
