"""results.json holds what a run was, in plain types, and the table shows it."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.optim import SGD

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP, BottleneckAutoencoder
from twinloop.runs import results
from twinloop.runs.history import History
from twinloop.tasks import Classification, Reconstruction, Task

HISTORY: list[dict[str, float]] = [
    {"epoch": 1, "seconds": 1.5, "train/loss": 0.5, "val/loss": 0.4},
    {"epoch": 2, "seconds": 2.0, "train/loss": 0.3, "val/loss": 0.2},
]


@pytest.fixture
def classifier(digits: ImageDataModule) -> Classification:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    task.last_metrics = {
        "test/class_accuracy": torch.arange(10) / 8,
        # Test has no image of class 3.
        "test/confusion": torch.eye(10).long() - torch.eye(10).long()[3].diag(),
    }
    return task


@pytest.fixture
def autoencoder(digits: ImageDataModule) -> Reconstruction:
    return Reconstruction(
        lambda shape: BottleneckAutoencoder(shape, 2, widths=(4,)),
        lambda weights: SGD(weights, 0.1),
        digits.spec,
    )


def collect(task: Task, data: ImageDataModule, **test: float) -> dict[str, Any]:
    history = History("lightning", weights="first.ckpt")
    history.rows[:] = HISTORY
    return results.collect(
        experiment="mine",
        task=task,
        data=data,
        history=history,
        val={"loss": 0.2},
        test=test,
    )


def test_a_classifiers_results(classifier: Classification, digits: ImageDataModule) -> None:
    found = collect(classifier, digits, accuracy=0.75)
    versions, machine, commit = (found.pop(name) for name in ("versions", "machine", "commit"))
    assert found == {
        "experiment": "mine",
        "loop": "lightning",
        "trained_by": ["lightning"],
        "weights": "first.ckpt",
        "dataset": {
            "name": "digits",
            "fingerprint": digits.spec.fingerprint,
            "test_split": "16.7% of train, held out",
            "sizes": {"train": 1_372, "val": 125, "test": 300},
            "notes": [],
        },
        "seed": 42,
        "parameters": 64 * 50 + 50 + 50 * 10 + 10,
        "epochs": 2,
        "seconds": {"total": 3.5, "per_epoch": [1.5, 2.0]},
        "device": "cpu",
        "val": {"loss": 0.2},
        "test": {
            "accuracy": 0.75,
            "class_accuracy": {str(n): None if n == 3 else n / 8 for n in range(10)},
        },
        "history": HISTORY,
    }
    assert versions.keys() == {"python", *results.PACKAGES}
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert machine.endswith(f"{os.cpu_count()} cores")
    git = subprocess.run(
        ["git", "-C", str(Path(results.__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert commit is None if git.returncode else commit.rstrip("+") == git.stdout.strip()


def test_an_autoencoders_results_compare_its_codes(
    autoencoder: Reconstruction, digits: ImageDataModule
) -> None:
    test = collect(autoencoder, digits, mse=0.1)["test"]
    assert list(test) == ["mse", "pca_mse", "linear_probe_accuracy", "knn_accuracy"]
    assert test["mse"] == 0.1


def test_what_was_written_is_read(
    classifier: Classification, digits: ImageDataModule, tmp_path: Path
) -> None:
    found = collect(classifier, digits, accuracy=0.75)
    results.write(found, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_write_that_fails_leaves_the_old_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    results.write({"old": 1}, path)

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(UserError, match=re.escape(f"cannot write {path}: No space left on device")):
        results.write({"new": 2}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_table_says_what_was_found_and_where_it_is(
    classifier: Classification, digits: ImageDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    found = collect(classifier, digits, accuracy=0.75, mse=0.0123456)
    results.show(found, Path("logs/mine/version_0-digits"), Path("logs"))
    printed = capsys.readouterr().out
    for line in (
        "mine on digits (lightning)",
        "1,372 train, 125 val, 300 test",
        "3,760",
        "2 in 4 s",
        "val loss",
        "0.2000",
        "test accuracy",
        "0.7500",
        "0.0123  (per pixel, pixels in [0, 1])",
        "figures and results.json: logs/mine/version_0-digits",
        "tensorboard --logdir logs",
    ):
        assert line in printed, line


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("classifier", ["confusion.png", "curves.png"]),
        ("autoencoder", ["curves.png", "reconstructions.png"]),
    ],
)
def test_figures_are_those_of_the_task(
    kind: str,
    names: list[str],
    digits: ImageDataModule,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    found = {"experiment": "mine", "history": HISTORY, "test": {"accuracy": 0.5, "mse": 0.1}}
    results.write_figures(found, request.getfixturevalue(kind), digits, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
