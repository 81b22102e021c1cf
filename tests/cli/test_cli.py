"""The command line, from what is typed to what is printed and written."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from twinloop.cli import main
from twinloop.progress import Bars

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def fit(experiment: str, folder: Path, *options: str) -> int:
    """Train on digits, on few batches unless `options` say otherwise."""
    return main(
        [
            *("fit", "--config", str(EXPERIMENTS / f"{experiment}.yaml")),
            *("--data.source", "digits", "--trainer.default_root_dir", str(folder)),
            *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"),
            *options,
        ]
    )


def weights(run: Path, name: str = "last") -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt")
    return checkpoint


def assert_equal_weights(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, two["state_dict"][name]), name


@pytest.mark.parametrize("loop", ["lightning", "homemade"])
@pytest.mark.parametrize("wanted", ["true", "false"])
def test_a_terminal_has_bars_unless_they_are_not_wanted(
    loop: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(Bars, "start", lambda bars: drawn.append(not bars.disable))
    options = ("--loop", loop, "--trainer.enable_progress_bar", wanted)
    assert fit("mlp", tmp_path, *options) == 0
    assert drawn == [wanted == "true"]


def test_where_slurm_is_installed_nobody_is_told_to_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The `srun` command is available")
        assert fit("mlp", tmp_path, "--trainer.fast_dev_run", "1") == 0


def test_a_classifier_run_leaves_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("classifier", tmp_path) == 0
    run = tmp_path / "lightning_logs" / "classifier" / "version_0-digits"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "confusion.png",
        "curves.png",
        "results.json",
    } <= files
    results = json.loads((run / "results.json").read_text())
    assert results["experiment"] == "classifier"
    assert results["loop"] == "lightning"
    assert results["dataset"]["name"] == "digits"
    assert results["dataset"]["sizes"] == {"train": 1372, "val": 125, "test": 300}
    assert results["epochs"] == len(results["history"]) == 2
    assert results["parameters"] == sum(
        weight.numel()
        for name, weight in weights(run)["state_dict"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    best = max(results["history"], key=lambda row: float(row["val/accuracy"]))
    assert results["val"]["accuracy"] == best["val/accuracy"]
    assert len(results["test"]["class_accuracy"]) == 10
    printed = capsys.readouterr().out
    assert "epoch 2/2" in printed
    assert f"{results['test']['accuracy']:.4f}" in printed
    assert "Tip" not in printed


def test_an_autoencoder_run_compares_its_codes_with_pca(tmp_path: Path) -> None:
    assert fit("autoencoder", tmp_path) == 0
    run = tmp_path / "lightning_logs" / "autoencoder" / "version_0-digits"
    test = json.loads((run / "results.json").read_text())["test"]
    assert test.keys() == {
        *("loss", "mse", "psnr", "ssim"),
        *("pca_mse", "linear_probe_accuracy", "knn_accuracy"),
    }
    assert test["loss"] == pytest.approx(test["mse"], rel=1e-5)
    assert (run / "reconstructions.png").is_file()


@pytest.mark.slow
def test_a_seed_fixes_every_weight(tmp_path: Path) -> None:
    logs = tmp_path / "lightning_logs" / "denoising-autoencoder"
    for seed in ("42", "42", "43"):
        assert fit("denoising-autoencoder", tmp_path, "--seed_everything", seed) == 0
    first, second, other = (weights(logs / f"version_{n}-digits") for n in range(3))
    assert_equal_weights(first, second)
    with pytest.raises(AssertionError):
        assert_equal_weights(first, other)


def test_a_resumed_run_goes_on_in_its_folder_and_ends_the_same(tmp_path: Path) -> None:
    constant = ("--model.schedule", "null")
    assert fit("classifier", tmp_path / "whole", *constant) == 0
    assert fit("classifier", tmp_path / "parts", *constant, "--trainer.max_epochs", "1") == 0
    assert fit("classifier", tmp_path / "parts", *constant, "--ckpt_path", "last") == 0
    whole, parts = (
        tmp_path / name / "lightning_logs" / "classifier" for name in ("whole", "parts")
    )
    assert [path.name for path in parts.iterdir()] == ["version_0-digits"]
    assert_equal_weights(weights(whole / "version_0-digits"), weights(parts / "version_0-digits"))
    assert weights(parts / "version_0-digits")["epoch"] == 1
    rows = json.loads((parts / "version_0-digits" / "results.json").read_text())["history"]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_last_is_the_last_epoch_also_where_an_earlier_one_was_better(tmp_path: Path) -> None:
    # With a learning rate of 0 no epoch is better than the first.
    assert fit("mlp", tmp_path, "--model.optimizer.lr", "0", "--model.schedule", "null") == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0-digits"
    assert weights(run, "best")["epoch"] == 0
    assert weights(run, "last")["epoch"] == 1


def test_test_and_validate_print_what_fit_has_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("mlp", tmp_path) == 0
    run = tmp_path / "lightning_logs" / "mlp" / "version_0-digits"
    results = json.loads((run / "results.json").read_text())
    for command in ("test", "validate"):
        capsys.readouterr()
        options = ("--data.source", "digits", "--trainer.default_root_dir", str(tmp_path))
        assert main([command, "--config", str(EXPERIMENTS / "mlp.yaml"), *options]) == 0
        stage = {"test": "test", "validate": "val"}[command]
        accuracy = f"{stage}/accuracy  {results[stage]['accuracy']:.4f}"
        assert accuracy in capsys.readouterr().out
    assert [path.name for path in run.parent.iterdir()] == ["version_0-digits"]


@pytest.mark.parametrize("experiment", ["autoencoder", "mlp"])
def test_predict_writes_what_it_makes_of_ones_own_images(experiment: str, tmp_path: Path) -> None:
    assert fit(experiment, tmp_path) == 0
    images = tmp_path / "my images"
    images.mkdir()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(images / "red.png")
    Image.new("L", (8, 8), 77).save(images / "grey.jpg")
    command = ["predict", "--config", str(EXPERIMENTS / f"{experiment}.yaml")]
    # The data set itself is not asked for: the checkpoint knows what it needs.
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*command, *options, "--data.images", str(images)]) == 0
    run = tmp_path / "lightning_logs" / experiment / "version_0-digits"
    lines = (run / "predictions" / "my images" / "predictions.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["file", "grey.jpg", "red.png"]


MISTAKES = {
    "unknown option": (["--trainer.max_epoch", "3"], "--trainer.max_epoch"),
    "unknown key of a model": (["--model.hiden", "3"], "'hiden' is not accepted"),
    "wrong type": (["--trainer.max_epochs", "three"], '"trainer.max_epochs": Expected a int'),
    "missing experiment": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "unknown class": (["--model.network", "twinloop.models.Nothing"], '"network"'),
    "batch size": (["--data.batch_size", "0"], "data.batch_size is 0"),
    "no folder": (["--data.source", "/nowhere"], "there is no folder '/nowhere'"),
    "val too large": (["--data.val_size", "5000"], "train has only 1497 images"),
    "no checkpoint": (["--ckpt_path", "nothing.ckpt"], "there is no file nothing.ckpt"),
    "no run yet": (["--ckpt_path", "last"], "no run of 'mlp' on digits"),
    "the Hub offline": (["--data.source", "owner/name"], "pass --data.source FOLDER"),
    "unknown length": (["--trainer.max_epochs", "-1"], "trainer.max_epochs"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("mlp", tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert message in error


def test_going_on_for_longer_than_the_schedule_was_planned_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("mlp", tmp_path) == 0
    capsys.readouterr()
    assert fit("mlp", tmp_path, "--ckpt_path", "last", "--trainer.max_epochs", "5") == 2
    assert "planned for 6 steps, and this run has 15" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("mlp", tmp_path, "--data.batch_size", "0", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_auto_without_a_network_says_loudly_that_it_is_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("mlp", tmp_path, "--data.source", "auto") == 0
    assert "NOT FASHION-MNIST" in capsys.readouterr().out
    assert (tmp_path / "lightning_logs" / "mlp" / "version_0-digits").is_dir()


def test_a_checkpoint_of_another_model_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("mlp", tmp_path) == 0
    path = tmp_path / "lightning_logs" / "mlp" / "version_0-digits" / "checkpoints" / "best.ckpt"
    capsys.readouterr()
    other = str(EXPERIMENTS / "lesson-classifier.yaml")
    assert main(["test", "--config", other, "--data.source", "digits", f"--ckpt_path={path}"]) == 2
    error = capsys.readouterr().err
    assert "another model" in error
    assert "network.layers" in error


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    assert fit("mlp", tmp_path, "--model.schedule", "null") == 0
    last = tmp_path / "lightning_logs" / "mlp" / "version_0-digits" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    command = [sys.executable, "-m", "twinloop", "fit", "--ckpt_path", "last"]
    options = ["--data.source", "digits", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--model.schedule", "null"]

    def limit() -> None:
        # No file may grow beyond half a checkpoint: what a full disk looks like from inside.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    done = subprocess.run(
        [*command, "--config", str(EXPERIMENTS / "mlp.yaml"), *options],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.part"))


def fit_compiled(experiment: str, run: Path, *options: str, **variables: str) -> str:
    """Train two epochs on digits in a process of its own; what it says to stderr."""
    command = [sys.executable, "-m", "twinloop", "fit", "--compile", "default", "--run", str(run)]
    command += ["--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--data.source", "digits"]
    command += ["--trainer.max_epochs", "2", *options]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(run / "kernels"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=os.environ | cache | variables, capture_output=True, text=True, check=False
    ).stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_either_loop_trains_a_compiled_network_to_the_same_weights(tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        assert fit_compiled("lesson-classifier", tmp_path / loop, "--loop", loop) == ""
    one, other = weights(tmp_path / "lightning"), weights(tmp_path / "homemade")
    assert_equal_weights(one, other)
    # Its names are those of a network that was not compiled, and can be loaded into one.
    assert "network.layers.0.0.weight" in one["state_dict"]


@pytest.mark.slow
def test_no_compiler_is_said_in_a_line(tmp_path: Path) -> None:
    (line,) = fit_compiled("mlp", tmp_path, CXX="no-such-compiler").splitlines()
    assert line.startswith("error: --compile: ")
    assert "No working C++ compiler" in line
