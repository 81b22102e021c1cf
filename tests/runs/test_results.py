"""results.json holds what a run was, in plain types, and the table shows it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.runs import results
from twinloop.runs.history import History
from twinloop.runs.repository import Repository
from twinloop.tasks import Classification, Task

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


def collect(task: Task, data: ImageDataModule, **test: float) -> dict[str, Any]:
    history = History("lightning", weights="first.ckpt")
    history.rows[:] = HISTORY
    return results.collect(
        {"experiment": "mine", "tags": ["wide"], "notes": None},
        Repository("c0ffee", changed=True),
        task=task,
        data=data,
        history=history,
        val={"loss": 0.2},
        test=test,
    )


def test_a_classifiers_results(classifier: Classification, digits: ImageDataModule) -> None:
    found = collect(classifier, digits, accuracy=0.75)
    versions, machine = found.pop("versions"), found.pop("machine")
    assert found == {
        "experiment": "mine",
        "tags": ["wide"],
        "notes": None,
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
        "flops": 2 * (64 * 50 + 50 * 10),
        "epochs": 2,
        "seconds": {"total": 3.5, "per_epoch": [1.5, 2.0]},
        "device": "cpu",
        "commit": "c0ffee",
        "uncommitted_changes": True,
        "measured": {},
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


def test_results_are_written_as_json_and_a_failed_write_is_reported(
    classifier: Classification, digits: ImageDataModule, tmp_path: Path
) -> None:
    path, found = tmp_path / "results.json", collect(classifier, digits, accuracy=0.75)
    results.write(found, path)
    assert json.loads(path.read_text()) == found
    with pytest.raises(UserError, match=re.escape(f"cannot write {tmp_path}: Is a directory")):
        results.write(found, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_printed_table_has_results_and_their_folder(
    classifier: Classification, digits: ImageDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    found = collect(classifier, digits, accuracy=0.75, mse=0.0123456)
    units = {"mse": "square metres"}
    results.show(found, units, Path("logs/mine/version_0-digits"), Path("logs"))
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
        "0.0123  (square metres)",
        "figures and results.json: logs/mine/version_0-digits",
        "tensorboard --logdir logs",
    ):
        assert line in printed, line
