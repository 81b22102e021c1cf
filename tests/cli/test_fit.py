"""`fit` and `test` as whole commands: what a user brings along, and what a run leaves."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.commands import (
    COMMAND,
    assert_equal_weights,
    bytes_of,
    error_line,
    fit,
    run_in,
    saved,
    write_module,
)
from twinloop.cli import main
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.data.datamodule import ImageDataModule
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.evaluation import evaluate
from twinloop.tasks import Task

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder that was asked for."""
    folder = tmp_path_factory.mktemp("trained")
    assert fit(folder, "--run_folder", str(folder / "run")) == 0
    assert not (folder / "lightning_logs").exists()
    return folder / "run"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What `test` has measured, to the last bit, and in which type."""
    found = []

    def measure(task: Task, *args: Any, **options: Any) -> dict[str, float]:
        found.append(values := evaluate(task, *args, **options))
        found.append({"bytes": next(task.parameters()).dtype.itemsize})
        return values

    monkeypatch.setattr("twinloop.cli.evaluate.evaluate", measure)
    return found


def results_of(run: Path) -> dict[str, float]:
    """The metrics of test that a run has written down, without those by class."""
    test = json.loads((run / "results.json").read_text())["test"]
    del test["class_accuracy"]
    return dict(test)


def own(name: str, **options: object) -> list[str]:
    """A callback of Lightning's among the options of the command."""
    arguments = [f"--trainer.callbacks.{key}={value}" for key, value in options.items()]
    return [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}", *arguments]


def test_a_users_checkpoint_callback_saves_beside_best_and_last(tmp_path: Path) -> None:
    name = "own/{epoch}-{val/accuracy:.2f}"
    options = own("ModelCheckpoint", monitor="val/accuracy", mode="max", filename=name)
    assert fit(tmp_path, *options) == 0
    folder = run_in(tmp_path) / "checkpoints"
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*.ckpt")}
    (theirs,) = paths.keys() - {"best.ckpt", "last.ckpt"}
    assert theirs.startswith("own/epoch=1-val/accuracy=0.")
    checkpoint = read_checkpoint(paths[theirs])
    assert_equal_weights(checkpoint, saved(run_in(tmp_path), "best"))
    assert checkpoint["settings"]["experiment"] == "mlp"


def test_a_users_progress_bar_replaces_the_default_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, *own("TQDMProgressBar", refresh_rate=1)) == 0
    assert "Epoch 1: 100%" in "".join(capsys.readouterr())


COUNTING = """
from lightning.pytorch.plugins import TorchCheckpointIO

class Counting(TorchCheckpointIO):
    saved = 0

    def save_checkpoint(self, *args, **options):
        type(self).saved += 1
        super().save_checkpoint(*args, **options)
"""
ENVIRONMENT = "lightning.pytorch.plugins.environments.LightningEnvironment"


def test_plugins_may_be_named_on_the_command_line_and_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_plugin", COUNTING, monkeypatch)
    assert fit(tmp_path / "one", "--trainer.plugins", "own_plugin.Counting") == 0
    assert importlib.import_module("own_plugin").Counting.saved == 4  # best and last, twice
    file = tmp_path / "more.yaml"
    file.write_text(f"trainer:\n  plugins:\n    - class_path: {ENVIRONMENT}\n")
    assert fit(tmp_path / "two", "--config", str(file)) == 0
    assert_equal_weights(saved(run_in(tmp_path / "one")), saved(run_in(tmp_path / "two")))


OWN_TASK = """
from twinloop.tasks import Classification

class Own(Classification):
    def __init__(self, *args, width: int = 3, **options):
        super().__init__(*args, **options)
        self.save_hyperparameters()
        self.width = width
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_with_hyperparameters_is_trained_and_read_back(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: ImageDataModule
) -> None:
    write_module(tmp_path, "own_task", OWN_TASK, monkeypatch)
    options = ["--model", "own_task.Own", "--model.width", "7", "--loop", loop]
    assert fit(tmp_path, *options, "--model.schedule", "twinloop.tasks.OneCycle") == 0
    path = run_in(tmp_path) / "checkpoints" / "best.ckpt"
    kind = importlib.import_module("own_task").Own
    task = kind.load_from_checkpoint(path, map_location="cpu", spec=digits.spec)
    assert task.width == 7
    assert_equal_weights(saved(run_in(tmp_path), "best"), {"state_dict": task.state_dict()})


@pytest.mark.parametrize(
    ("loop", "options", "message"),
    [
        (
            "lightning",
            own("StochasticWeightAveraging", swa_lrs=1, device="cpu"),
            "use EMAWeightAveraging",
        ),
        (
            "homemade",
            ["--trainer.enable_checkpointing", "false"],
            "trainer.enable_checkpointing cannot be set",
        ),
        (
            "lightning",
            ["--trainer.callbacks+=twinloop.learner.callbacks.AnomalyCB"],
            "AnomalyCB is a callback of the homemade loop; pass --loop homemade",
        ),
        (
            "homemade",
            ["--trainer.benchmark", "true"],
            "trainer.benchmark: the homemade loop has no counterpart",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unsupported_flag_is_refused_before_any_file_is_written(
    loop: Loop,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit(tmp_path, *options, "--loop", loop) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_fit_by_the_config_of_a_run_begins_a_new_run(run: Path, tmp_path: Path) -> None:
    before = bytes_of(run)
    again = ["fit", "--config", str(run / "config.yaml"), "--trainer.default_root_dir"]
    assert main([*again, str(tmp_path)]) == 0
    assert bytes_of(run) == before
    assert_equal_weights(saved(run_in(tmp_path)), saved(run))


def test_fit_refuses_a_folder_that_has_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_of(run)
    assert fit(tmp_path, "--run_folder", str(run)) == 2
    assert f"run_folder: {run} already has a run (" in error_line(capsys)
    assert bytes_of(run) == before


def test_test_reads_the_run_whose_config_it_is_given(
    run: Path, measured: list[dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    assert f"checkpoint: {run}/checkpoints/best.ckpt\n" in capsys.readouterr().out
    assert measured == [results_of(run), {"bytes": 4}]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "size"), [("64-true", 8), ("bf16-mixed", 4)])
def test_test_has_the_precision_and_the_limit_of_the_run(
    precision: str, size: int, tmp_path: Path, measured: list[dict[str, float]]
) -> None:
    limit = ("--trainer.limit_test_batches", "1")
    options = ("--trainer.precision", precision, "--trainer.max_epochs", "1", *limit)
    assert fit(tmp_path, *options, "--loop", "homemade") == 0
    run = run_in(tmp_path)
    results = json.loads((run / "results.json").read_text())
    assert results["val"]["loss"] == results["history"][0]["val/loss"]
    best = ("--ckpt_path", str(run / "checkpoints" / "best.ckpt"))
    assert main(["test", *COMMAND, *best, *limit]) == 0
    assert measured == [results_of(run), {"bytes": size}]
    assert main(["test", *COMMAND, *best, *limit, "--trainer.precision", "32-true"]) == 0
    assert measured[2:] != measured[:2]  # other sums, or another type
    assert main(["test", *COMMAND, *best]) == 0
    assert measured[4]["accuracy"] != measured[0]["accuracy"]  # of all 300 images, and not of 256


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_without_validation_ends_and_its_last_epoch_is_tested(
    loop: Loop,
    tmp_path: Path,
    measured: list[dict[str, float]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit(tmp_path, "--trainer.limit_val_batches", "0", "--loop", loop) == 0
    run = run_in(tmp_path)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    results = json.loads((run / "results.json").read_text())
    names = {"epoch", "seconds", "train/loss", "train/accuracy"}
    assert [row.keys() for row in results["history"]] == [names] * 2
    assert results["val"] == {}
    assert main(["test", *COMMAND, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert f"checkpoint: {run}/checkpoints/last.ckpt\n" in capsys.readouterr().out
    assert measured[0] == results_of(run)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_deterministic_may_only_warn(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def look(*_: Any) -> None:
        found.append(torch.are_deterministic_algorithms_enabled())
        found.append(torch.is_deterministic_algorithms_warn_only_enabled())

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr("twinloop.runs.results.write_results", look)
    assert fit(tmp_path, "--trainer.deterministic", "warn", "--loop", loop) == 0
    assert found == [True, True]


def test_a_new_run_begins_with_the_best_weights_of_another(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With a rate of 0 it ends with them too.
    still = ("--model.optimizer.lr", "0", "--loop", "homemade")
    assert fit(tmp_path, *still, "--weights", str(run)) == 0
    best = run / "checkpoints" / "best.ckpt"
    assert f"weights: 4 of 4 tensors from {best}\n" in capsys.readouterr().out
    assert_equal_weights(saved(run_in(tmp_path)), saved(run, "best"))
    assert fit(tmp_path, "--weights", str(run), "--ckpt_path", str(best)) == 2
    assert "--weights starts a new run and --ckpt_path resumes one" in error_line(capsys)


def write_pets(folder: Path, seed: int) -> Path:
    """A data set of that name: four grey images of 8x8 of each of two classes."""
    draw = np.random.default_rng(seed)
    for split, number in (("train", 3), ("test", 1)):
        for kind in ("cat", "dog"):
            (folder / "pets" / split / kind).mkdir(parents=True)
            for name in range(number):
                pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pets" / split / kind / f"{name}.png")
    return folder / "pets"


@pytest.mark.slow
def test_other_data_may_use_the_weights_of_a_run_but_not_resume_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_pets(tmp_path / str(seed), seed) for seed in (1, 2))
    few = ("--data.val_size", "2", "--model.optimizer.lr", "0")
    best = run / "checkpoints" / "best.ckpt"
    assert fit(tmp_path, "--data.source", str(first), *few, "--weights", str(best)) == 0
    names = list(new_head := weights_of_head(saved(run_in(tmp_path))))
    listed = ", ".join(f"{name} {list(new_head[name].shape)}" for name in names)
    assert (
        f"weights: 2 of 4 tensors from {best}; new: {listed}\n"
        in capsys.readouterr().out.splitlines(keepends=True)
    )
    body = saved(run_in(tmp_path))["state_dict"]
    for name, weight in saved(run, "best")["state_dict"].items():
        assert name in names or torch.equal(weight, body[name])
    before = bytes_of(run_in(tmp_path))
    last = run_in(tmp_path) / "checkpoints" / "last.ckpt"
    elsewhere = ("--data.source", str(second), *few, "--ckpt_path")
    assert fit(tmp_path, *elsewhere, str(last)) == 2
    line = error_line(capsys)
    assert f"{last}: this run was trained on pets with the fingerprint " in line
    assert f"or begin a new run with --weights {last}" in line
    assert fit(tmp_path, *elsewhere, "last") == 2
    assert "; 1 are on other data of that name" in error_line(capsys)
    assert bytes_of(run_in(tmp_path)) == before


def weights_of_head(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of as many answers as there are kinds of pets."""
    state = checkpoint["state_dict"].items()
    return {name: weight for name, weight in state if len(weight) == 2}
