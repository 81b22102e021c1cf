"""The command line, from what is typed to what is printed and written."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import (
    COMMAND,
    EXPERIMENTS,
    ON_DIGITS,
    assert_equal_weights,
    error_line,
    fit,
    make_quick,
    run_in,
    saved,
)
from twinloop import cli
from twinloop.cli import COMMANDS, main
from twinloop.progress import Bars

AT_ONCE = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "lightning", "numpy", "yaml"))  # an import of them raises
sys.argv[1:] = {args}
runpy.run_module("twinloop", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("args", "status", "printed"),
    [
        ([], 0, cli.usage()),
        (["--help"], 0, cli.usage()),
        (["-h", "--debug"], 0, cli.usage()),
        (["--version"], 0, f"twinloop {version('twinloop')}"),
        (["fti"], 2, f"error: there is no command 'fti'; the commands are {', '.join(COMMANDS)}"),
    ],
)
def test_help_is_printed_without_importing_torch(
    args: list[str], status: int, printed: str
) -> None:
    command = [sys.executable, "-c", AT_ONCE.format(args=args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (status, f"{printed}\n")


def test_the_help_has_a_line_for_each_command() -> None:
    lines = {line for line in cli.usage().splitlines() if line.startswith("  ")}
    assert lines == {f"  {name:14}{command.help}" for name, command in COMMANDS.items()}
    assert cli.usage().startswith("usage: twinloop COMMAND ")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose schedule was planned for its six steps."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        assert fit(folder, "--model.schedule=twinloop.tasks.OneCycle") == 0
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("loop", "wanted"), [("lightning", "true"), ("lightning", "false"), ("homemade", "true")]
)
def test_a_terminal_has_bars_unless_they_are_not_wanted(
    loop: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(Bars, "start", lambda bars: drawn.append(not bars.disable))
    options = ("--loop", loop, "--trainer.enable_progress_bar", wanted)
    assert fit(tmp_path, *options, "--trainer.max_epochs", "1") == 0
    assert drawn == [wanted == "true"]


def test_an_installed_slurm_brings_no_warning_about_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The `srun` command is available")
        assert fit(tmp_path, "--trainer.fast_dev_run", "1") == 0


def test_a_classifier_run_saves_every_file_and_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, experiment="classifier") == 0
    run = run_in(tmp_path)
    assert run == tmp_path / "lightning_logs" / "classifier" / "version_0-digits"
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
        for name, weight in saved(run)["state_dict"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    best = max(results["history"], key=lambda row: float(row["val/accuracy"]))
    assert results["val"]["accuracy"] == best["val/accuracy"]
    assert len(results["test"]["class_accuracy"]) == 10
    printed = capsys.readouterr().out
    assert "epoch 2/2" in printed
    assert f"{results['test']['accuracy']:.4f}" in printed
    assert "Tip" not in printed


def test_an_autoencoder_run_compares_its_codes_with_pca_and_predicts(tmp_path: Path) -> None:
    assert fit(tmp_path, "--model.network.widths", "[4,8]", experiment="autoencoder") == 0
    run = run_in(tmp_path)
    test = json.loads((run / "results.json").read_text())["test"]
    assert test.keys() == {
        *("loss", "mse", "psnr", "ssim"),
        *("pca_mse", "linear_probe_accuracy", "knn_accuracy"),
    }
    assert test["loss"] == pytest.approx(test["mse"], rel=1e-5)
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "reconstructions.png"}

    images = tmp_path / "my images"
    images.mkdir()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(images / "red.png")
    Image.new("L", (8, 8), 77).save(images / "grey.jpg")
    logs = ["--trainer.default_root_dir", str(tmp_path), "--data.images", str(images)]
    config = ["--config", str(EXPERIMENTS / "autoencoder.yaml"), "--model.network.widths", "[4,8]"]
    assert main(["predict", *config, *ON_DIGITS, *logs]) == 0
    lines = (run / "predictions" / "my images" / "predictions.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["file", "grey.jpg", "red.png"]


@pytest.mark.slow
def test_a_seed_fixes_every_weight(tmp_path: Path) -> None:
    logs = tmp_path / "lightning_logs" / "denoising-autoencoder"
    for seed in ("42", "42", "43"):
        seeded = ("--seed_everything", seed)
        assert fit(tmp_path, *seeded, experiment="denoising-autoencoder") == 0
    first, second, other = (saved(logs / f"version_{n}-digits") for n in range(3))
    assert_equal_weights(first, second)
    with pytest.raises(AssertionError):
        assert_equal_weights(first, other)


@pytest.mark.parametrize(("command", "stage"), [("test", "test"), ("validate", "val")])
def test_test_and_validate_print_the_results_of_fit(
    command: str, stage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((run_in(folder) / "results.json").read_text())
    assert main([command, *COMMAND, "--trainer.default_root_dir", str(folder)]) == 0
    assert f"{stage}/accuracy  {results[stage]['accuracy']:.4f}" in capsys.readouterr().out


def test_an_empty_split_is_not_evaluated_in_silence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.val_size", "0", "--trainer.default_root_dir", str(folder)]
    assert main(["validate", *COMMAND, *options]) == 2
    assert "digits has no images of val to evaluate on" in error_line(capsys)


MISTAKES = {
    "unknown option": (["--trainer.max_epoch", "3"], "--trainer.max_epoch"),
    "missing experiment": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "unknown class": (["--model.network", "twinloop.models.Nothing"], '"network"'),
    "batch size": (["--data.batch_size", "0"], "data.batch_size is 0"),
    "no checkpoint": (["--ckpt_path", "nothing.ckpt"], "there is no file nothing.ckpt"),
    "no run yet": (["--ckpt_path", "last"], "no run of 'mlp' on digits"),
    "the Hub offline": (["--data.source", "owner/name"], "set data.source to a folder"),
    "unknown length": (["--trainer.max_epochs", "-1"], "trainer.max_epochs"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, "--model.schedule=twinloop.tasks.OneCycle", *options) == 2
    assert message in error_line(capsys)


def test_a_schedule_is_not_made_longer_by_a_resumed_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = ("--model.schedule=twinloop.tasks.OneCycle", "--trainer.max_epochs", "5")
    assert fit(folder, *longer, "--ckpt_path", "last") == 2
    assert "planned for 6 steps, and this run has 15" in error_line(capsys)


def test_a_checkpoint_of_another_model_is_refused_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_in(folder) / "checkpoints" / "best.ckpt"
    other = str(EXPERIMENTS / "lesson-classifier.yaml")
    assert main(["test", "--config", other, *ON_DIGITS, f"--ckpt_path={path}"]) == 2
    assert re.search("another model.*network.layers", error_line(capsys))


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, "--data.batch_size", "0", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("_quick")
def test_auto_without_a_network_says_loudly_that_it_is_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, "--data.source", "auto") == 0
    assert "NOT FASHION-MNIST" in capsys.readouterr().out
    assert (tmp_path / "lightning_logs" / "mlp" / "version_0-digits").is_dir()


def fit_compiled(experiment: str, run: Path, *options: str, **variables: str) -> str:
    """Train two epochs on digits in a process of its own; what it says to stderr."""
    command = [sys.executable, "-m", "twinloop", "fit", "--compile", "default", "--run", str(run)]
    command += ["--config", str(EXPERIMENTS / f"{experiment}.yaml"), "--data.source", "digits"]
    command += ["--trainer.max_epochs", "2", *options]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(run.parent / "kernels"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=os.environ | cache | variables, capture_output=True, text=True, check=False
    ).stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_either_loop_trains_a_compiled_network_to_the_same_weights(tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        assert fit_compiled("lesson-classifier", tmp_path / loop, "--loop", loop) == ""
    one, other = saved(tmp_path / "lightning"), saved(tmp_path / "homemade")
    assert_equal_weights(one, other)
    # Its names are those of a network that was not compiled, and can be loaded into one.
    assert "network.layers.0.0.weight" in one["state_dict"]


@pytest.mark.slow
def test_a_missing_compiler_is_reported_in_one_line(tmp_path: Path) -> None:
    (line,) = fit_compiled("mlp", tmp_path / "run", CXX="no-such-compiler").splitlines()
    assert line.startswith("error: --compile: ")
    assert "No working C++ compiler" in line
