"""`fit` on data of a user's own, in both loops, to the same bits; stopped and resumed too."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import STOPPED, error_line, saved
from tests.data.test_targets import write_pairs
from tests.loops.test_resume import assert_equal
from twinloop.cli import main
from twinloop.cli.parity import compare, run
from twinloop.comparison.matrix import Settings, nested
from twinloop.comparison.outcome import differences
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.data.replay import Replay

SETTINGS: Settings = {
    "experiment": "own",
    "seed_everything": 3,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.enable_progress_bar": False,
    "model.class_path": "twinloop.tasks.Classification",
    "model.init_args.network.class_path": "twinloop.models.SequentialClassifier",
    "model.init_args.network.init_args": {"widths": [4, 8], "dropout": 0.5},
    "model.init_args.optimizer.class_path": "torch.optim.AdamW",
}


def named(kind: str, **init_args: Any) -> Settings:
    """Data of `tests/own_data.py`."""
    return {"data.class_path": f"tests.own_data.{kind}", "data.init_args": init_args}


SAME: dict[str, Settings] = {
    "in memory": named("Memory"),
    "random values everywhere": named("Augmented") | {"trainer.val_check_interval": 3},
    "worker processes": named("Augmented", workers=1) | {"trainer.max_epochs": 2},
    "a stream": named("Stream"),
    "double precision, a dict": named("Stream") | {"trainer.precision": "64-true"},
    "overfit": named("Augmented") | {"trainer.overfit_batches": 2},
    "few batches": named("Memory") | {"trainer.limit_train_batches": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SAME.values(), ids=SAME.keys())
def test_both_loops_leave_the_same(settings: Settings, tmp_path: Path) -> None:
    more = {"record": "all", "trainer.default_root_dir": "RUN"}
    assert compare(SETTINGS | more | settings, tmp_path, "same") == []


NETWORK = "model.init_args.network.class_path"
MLP: Settings = {NETWORK: "twinloop.models.MLP", "model.init_args.network.init_args": {"hidden": 9}}
AUTOENCODER: Settings = {
    NETWORK: "twinloop.models.BottleneckAutoencoder",
    "model.init_args.network.init_args": {"code_size": 3, "widths": [4, 8]},
}
TARGETS: dict[str, Settings] = {
    "Regression": MLP
    | {"data.target": "numbers", "data.label_column": "box", "model.init_args.outputs": 3},
    "MultiLabel": MLP | {"data.target": "labels", "data.label_column": "tags"},
    "ImageToImage": AUTOENCODER
    | {"data.target": "image", "data.label_column": "after", "data.augmentation": {"shift": 1}},
}
"""Tasks whose target is not one class, and their data."""
MEASURED = {
    "Regression": {"loss", "mse", "mae"},
    "MultiLabel": {"loss", "accuracy", "f1"},
    "ImageToImage": {"loss", "mse", "psnr", "ssim"},
}
HEADERS = {
    "Regression": "file,output_0,output_1,output_2",
    "MultiLabel": "file,ant,cat,dog",
    "ImageToImage": "file,mse,code_0",
}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "settings"), TARGETS.items(), ids=TARGETS.keys())
def test_other_targets_leave_the_same_in_both_loops(
    task: str, settings: Settings, tmp_path: Path
) -> None:
    source = write_pairs(tmp_path / "pairs", 24)
    data = {"source": str(source), "image_column": "image", "image_size": [8, 8], "batch_size": 5}
    more = {f"data.{name}": value for name, value in data.items()}
    more |= {"record": "all", "trainer.default_root_dir": "RUN"}
    more |= {"model.class_path": f"twinloop.tasks.{task}"}
    one, two = (
        run(SETTINGS | more | settings, loop, tmp_path / "runs", draws=True) for loop in LOOPS
    )
    assert differences(one, two) == []
    assert (one.status, one.steps) == (0, 8)
    folder = tmp_path / "runs" / "homemade"
    assert (folder / "curves.png").exists()
    assert (folder / "reconstructions.png").exists() == (task == "ImageToImage")
    results = json.loads((folder / "results.json").read_text())
    assert set(results["test"]) == MEASURED[task]
    command = ["predict", "--config", str(folder / "config.yaml"), "--data.images", str(source)]
    assert main(command) == 0
    header = (folder / "predictions" / "pairs" / "predictions.csv").read_text().partition("\n")[0]
    assert header.startswith(HEADERS[task])


@pytest.mark.slow
def test_an_autoencoder_shows_its_reconstructions_and_says_what_is_left_out(tmp_path: Path) -> None:
    settings = {"record": "all", "model.class_path": "twinloop.tasks.Reconstruction"}
    settings |= {"trainer.default_root_dir": "RUN"} | AUTOENCODER | named("Augmented")
    one, two = (run(SETTINGS | settings, loop, tmp_path, draws=True) for loop in LOOPS)
    assert differences(one, two) == []
    printed = [text for key, text in one.found.items() if key.startswith("printed/")]
    assert "PCA, probes and the projector are left out: they need an ImageDataModule" in printed
    assert (tmp_path / "homemade" / "reconstructions.png").exists()
    assert any("TensorBoard/val/reconstructions" in key for key in two.found)


AUGMENTED: dict[str, Settings] = {
    "one": {"data.augmentation": {"class_path": "tests.own_data.Jitter"}},
    "several": {
        "data.augmentation": [
            {"class_path": "tests.own_data.Jitter", "init_args": {"by": 0.5}},
            {"class_path": "torch.nn.Dropout", "init_args": {"p": 0.1}},
        ]
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", AUGMENTED.values(), ids=AUGMENTED.keys())
def test_augmentation_of_ones_own_leaves_the_same_in_both_loops(
    settings: Settings, tmp_path: Path
) -> None:
    more = {"record": "all", "trainer.default_root_dir": "RUN", "data.source": "digits"}
    assert compare(SETTINGS | more | settings, tmp_path, "same") == []


def write(folder: Path, settings: Settings) -> str:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(nested(SETTINGS | settings)))
    return str(path)


def stop_after(batches: int, patch: pytest.MonkeyPatch) -> None:
    """Have this process get a SIGTERM in a batch of the second epoch of train."""
    replay = Replay.__iter__

    def stopping(self: Replay) -> Iterator[Any]:
        for number, batch in enumerate(replay(self), start=1):
            if not self.fixed and (self.epoch, number) == (1, batches):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    patch.setattr(Replay, "__iter__", stopping)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_resumes_inside_an_epoch_in_the_other_loop(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, named("Augmented"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    fit = ["fit", "--config", config]
    assert main([*fit, "--loop", loop, "--run", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert main([*fit, "--loop", loop, "--run", str(run)]) == STOPPED
    assert saved(run)["OwnData"]["train"]["position"] == 4
    other = LOOPS[1 - LOOPS.index(loop)]
    last = str(run / "checkpoints" / "last.ckpt")
    assert main([*fit, "--loop", other, "--ckpt_path", last]) == 0
    one, two = saved(run), saved(whole)
    for checkpoint in (one, two):
        checkpoint["callbacks"]["KeepHistory"].pop("trained_by")
        del checkpoint["settings"]  # which name the loop and the folder
    assert_equal(one, two)
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, whole)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["dataset"]["sizes"] == {"train": 50, "val": 20, "test": 16}
    assert set(results[0]["test"]["class_accuracy"]) == {"even", "odd"}
    for name in ("validate", "test"):
        assert main([name, "--config", str(run / "config.yaml")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_data_that_cannot_be_repeated_is_refused_before_the_first_step(
    loop: Loop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write(tmp_path, named("Augmented", entropy=True))
    fit = ["fit", "--config", config, "--loop", loop]
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert main([*fit, "--run", str(tmp_path / "run")]) == STOPPED
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert main([*fit, "--ckpt_path", last]) == 2
    assert "of Augmented cannot be resumed inside epoch 2, since its batch 2" in error_line(capsys)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "tests.own_data.NoSpec"], "data: NoSpec has no spec; set spec = DataSpec("),
        (["--data", "tests.own_data.Memory", "--data.batch_size", "x"], '"data.batch_size": Exp'),
        (["--data", "tests.own_data.Nothing"], "module 'tests.own_data' has no attribute 'Nothi"),
        (["--data", "torch.nn.Linear"], "not correspond to a subclass of LightningDataModule"),
    ],
)
def test_wrong_data_is_refused_in_a_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, named("Memory"))
    assert main(["fit", "--config", config, *options]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "lightning_logs").exists()
