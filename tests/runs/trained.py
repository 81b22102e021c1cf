"""What tests of trained tasks share: the checkpoint of a run that has not been trained."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD

from twinloop.data.spec import DataSpec
from twinloop.models import MLP
from twinloop.tasks import Classification, Task

SPEC = DataSpec("pets", "f" * 64, (1, 4, 4), ("cat", "dog"))
NETWORK = {"class_path": "twinloop.models.MLP", "init_args": {"hidden": 3}}
OPTIMIZER = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
MODEL = {
    "class_path": "twinloop.tasks.Classification",
    "init_args": {"network": NETWORK, "optimizer": OPTIMIZER, "label_smoothing": 0.25},
}
SETTINGS = {"seed_everything": 1, "data": {"val_size": 0.1}, "trainer": {}, "model": MODEL}


def checkpoint() -> dict[str, Any]:
    """That of a run, with new weights at every call."""
    task = Classification(partial(MLP, hidden=3), lambda weights: SGD(weights, 0.1), SPEC)
    facts = {"data_spec": SPEC._asdict(), "settings": copy.deepcopy(SETTINGS)}
    return {"state_dict": task.state_dict(), "pytorch-lightning_version": "2.6.6"} | facts


def save(run: Path, name: str, found: dict[str, Any]) -> Path:
    """Save a checkpoint in the folder of a run."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(found, run / "checkpoints" / f"{name}.ckpt")
    return run / "checkpoints" / f"{name}.ckpt"


def assert_has(task: Task, found: dict[str, Any]) -> None:
    """Compare the weights of a task with those of a checkpoint, in type and to the bit."""
    weights = task.state_dict()
    assert weights.keys() == found["state_dict"].keys()
    for name, weight in found["state_dict"].items():
        assert weights[name].dtype == weight.dtype, name
        assert torch.equal(weights[name], weight), name
