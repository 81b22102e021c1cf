"""What may change when a run is resumed, and what a new run can use of a checkpoint's weights."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.runs.settings import (
    MAY_CHANGE,
    check_data,
    check_settings,
    check_split,
    load_weights,
)

PATH = Path("run/checkpoints/last.ckpt")
SPEC = DataSpec("pets", "a1" * 32, (3, 8, 8), ("cat", "dog"))


def settings() -> dict[str, Any]:
    """Those of a run, as a checkpoint has them."""
    return {
        "config": ["experiments/mlp.yaml"],
        "seed_everything": 42,
        "loop": "lightning",
        "experiment": "mlp",
        "trainer": {
            "max_epochs": 5,
            "precision": None,
            "accumulate_grad_batches": 1,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {"monitor": "val/loss", "patience": 3},
                }
            ],
            "plugins": [],
        },
        "data": {"source": "digits", "batch_size": 64, "image_size": [8, 8]},
        "model": {
            "class_path": "twinloop.tasks.Classification",
            "init_args": {
                "network": {"class_path": "twinloop.models.MLP", "init_args": {"hidden": 50}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                "schedule": None,
            },
        },
    }


def changed(key: str, value: Any) -> dict[str, Any]:
    """The settings with one other value, at the `key` of names and numbers with dots between."""
    found: Any = (all_settings := settings())
    *parts, name = key.split(".")
    for part in parts:
        found = found[int(part) if part.isdecimal() else part]
    found[name] = value
    return all_settings


def test_other_data_of_the_same_name_is_refused() -> None:
    checkpoint = {"data_spec": SPEC._asdict()}
    check_data(checkpoint, SPEC._replace(name="renamed"), PATH)
    message = (
        f"{PATH}: this run was trained on pets with the fingerprint a1a1a1a1a1a1, and "
        "--data.source has pets with b2b2b2b2b2b2; pass the data that it was trained on, or begin "
        f"a new run with --weights {PATH}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_data(checkpoint, SPEC._replace(fingerprint="b2" * 32), PATH)


EARLY = "trainer.callbacks.0.init_args.patience"
REFUSED: dict[str, tuple[str, Any, str]] = {
    "seed": ("seed_everything", 43, "seed_everything 42, which is 43 now"),
    "batch size": ("data.batch_size", 65, "data.batch_size 64, which is 65 now"),
    "tuple": ("data.image_size", (8, 9), "data.image_size [8, 8], which is [8, 9] now"),
    "now unset": ("data.image_size", None, "data.image_size [8, 8], which is unset now"),
    "now set": ("trainer.precision", "64-true", "trainer.precision unset, which is '64-true' now"),
    "of a callback": (EARLY, 4, "trainer.callbacks.0.patience 3, which is 4 now"),
    "no callbacks": ("trainer.callbacks", [], "trainer.callbacks.0 'lightning.pytorch.callbacks."),
    "rate": ("model.init_args.optimizer.init_args.lr", 0.2, "model.optimizer.lr 0.1, which is 0.2"),
    "network": (
        "model.init_args.network.class_path",
        "my.Net",
        "model.network 'twinloop.models.MLP', which is 'my.Net' now",
    ),
    "schedule": (
        "model.init_args.schedule",
        {"class_path": "twinloop.tasks.Cosine"},
        "model.schedule unset, which is 'twinloop.tasks.Cosine' now",
    ),
    "option of none": (
        "model.init_args.optimizer.init_args.momentum",
        0.9,
        "model.optimizer.momentum unset, which is 0.9 now",
    ),
    "name": ("experiment", "other", "experiment 'mlp', which is 'other' now"),
}


@pytest.mark.parametrize(("key", "value", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_settings_of_what_is_learnt_may_not_change(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_settings({"settings": settings()}, changed(key, value), PATH)
    said = str(caught.value)
    assert said.startswith(f"{PATH}: this run was trained with ")
    assert said.endswith(
        "a resumed run must keep its settings: pass the original value, or begin a new run with "
        f"--weights {PATH}"
    )


ALLOWED: dict[str, Any] = {
    "config": ["run/config.yaml"],
    "loop": "homemade",
    "record": "all",
    "run_folder": "elsewhere",
    "ckpt_path": "last",
    "data.source": "/home/me/digits",
    "data.cache_dir": "/tmp/cache",
    "trainer.max_epochs": 50,
    "trainer.devices": 2,
    "trainer.limit_test_batches": 3,
    "trainer.enable_progress_bar": False,
    "trainer.profiler": {"class_path": "lightning.pytorch.profilers.SimpleProfiler"},
    "trainer.default_root_dir": "/tmp",
    "trainer.plugins": None,  # nothing, said otherwise
    "data.image_size": (8, 8),
}


@pytest.mark.parametrize(("key", "value"), ALLOWED.items(), ids=ALLOWED.keys())
def test_settings_of_length_place_and_output_may_change(key: str, value: Any) -> None:
    check_settings({"settings": settings()}, changed(key, value), PATH)
    check_settings({"settings": changed(key, value)}, settings(), PATH)


@pytest.mark.parametrize("key", ["trainer.reload_dataloaders_every_n_epochs", "data.newly_made"])
def test_a_setting_that_the_checkpoint_lacks_must_be_unset(key: str) -> None:
    check_settings({"settings": settings()}, changed(key, None), PATH)
    with pytest.raises(UserError, match=f"{key} unset, which is 1 now"):
        check_settings({"settings": settings()}, changed(key, 1), PATH)


@pytest.mark.parametrize("checkpoint", [{}, {"settings": None}, {"settings": {}}])
def test_a_checkpoint_without_settings_is_resumed_with_any(checkpoint: dict[str, Any]) -> None:
    check_settings(checkpoint, settings(), PATH)


def test_changeable_settings_are_whole_names() -> None:
    # A name with which another one begins would let that one change too.
    names = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    names |= {f"data.{name}" for name in inspect.signature(ImageDataModule).parameters}
    assert {name for name in names if name.startswith(MAY_CHANGE)} == names & set(MAY_CHANGE)
    assert {name for name in MAY_CHANGE if "." in name} <= names


def split_of(seed: int, val_size: float, fingerprint: str, **more: Any) -> dict[str, Any]:
    spec = SPEC._replace(fingerprint=fingerprint)._asdict()
    then = {"seed_everything": seed, "data": {"val_size": val_size}}
    return {"data_spec": spec, "settings": then} | more


def test_rows_of_train_may_not_become_rows_of_val(digits: ImageDataModule) -> None:
    ours = digits.spec.fingerprint
    check_split(split_of(42, 1 / 12, ours), digits, PATH)
    for seed, val_size in ((43, 1 / 12), (42, 0.5)):
        with pytest.raises(UserError, match="so that val has rows of its train split") as caught:
            check_split(split_of(seed, val_size, ours), digits, PATH)
        said = f"{PATH} was trained with data.split_seed {seed} and data.val_size {val_size:g}, "
        assert str(caught.value).startswith(f"{said}which are 42 and 0.0833333 now")
    # A run of another seed has the same split, but where that seed was its split's too.
    own = split_of(43, 1 / 12, ours)
    own["settings"]["data"]["split_seed"] = 42
    check_split(own, digits, PATH)
    # Of other data no row was trained on, and of an old checkpoint the split is not known.
    check_split(split_of(43, 0.5, "other"), digits, PATH)
    check_split(split_of(43, 0.5, ours, settings=None), digits, PATH)


def network(classes: int = 2, width: int = 3) -> nn.Sequential:
    parts = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, classes)
    return nn.Sequential(*parts)


def filled(value: float, **sizes: int) -> dict[str, Any]:
    """A checkpoint of a network all of whose weights are `value`."""
    state = network(**sizes).state_dict()
    return {"state_dict": {name: torch.full_like(part, value) for name, part in state.items()}}


def test_weights_that_fit_are_loaded() -> None:
    line = load_weights(model := network(), filled(7.0), PATH)
    assert line == f"weights: 6 of 6 tensors from {PATH}"
    for name, part in model.state_dict().items():
        assert torch.equal(part, torch.full_like(part, 7.0)), name


def test_a_head_of_another_size_stays_new_and_is_reported() -> None:
    model = network(classes=5)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    line = load_weights(model, filled(7.0), PATH)
    assert line == f"weights: 4 of 6 tensors from {PATH}; new: 2.weight [5, 3], 2.bias [5]"
    for name, part in model.state_dict().items():
        expected = before[name] if name.startswith("2.") else torch.full_like(part, 7.0)
        assert torch.equal(part, expected), name


def test_unused_weights_are_reported() -> None:
    line = load_weights(network()[:1], filled(7.0), PATH)
    unused = ", ".join(name for name in filled(0.0)["state_dict"] if not name.startswith("0."))
    assert line == f"weights: 2 of 2 tensors from {PATH}; not used: {unused}"


def test_weights_of_which_none_fits_are_refused() -> None:
    message = f"--weights {PATH}: no weight has the name and shape of one of this model"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        # The number of batches that were counted is no weight that is learnt.
        load_weights(network(classes=5, width=6), filled(7.0), PATH)
