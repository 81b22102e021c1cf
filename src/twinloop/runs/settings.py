"""Compare a run with the checkpoint that it resumes, or starts from: data, settings, weights."""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from twinloop.data.datamodule import ImageDataModule
from twinloop.data.protocol import Data
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.runs.checkpoint import spec_of

LENGTH = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.min_epochs", "trainer.min_steps"),
    "trainer.max_time",
)
MAY_CHANGE = (
    *("config", "loop", "compile", "record", "run_folder", "ckpt_path", "weights"),
    *("tags", "notes", "seeds"),
    *("data.source", "data.revision", "data.cache_dir", "data.images", "data.background"),
    *LENGTH,
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    *("trainer.strategy", "trainer.deterministic", "trainer.benchmark", "trainer.profiler"),
    *(
        "trainer.fast_dev_run",
        "trainer.detect_anomaly",
        "trainer.log_every_n_steps",
        "trainer.limit_test_batches",
    ),
    *("trainer.num_sanity_val_steps", "trainer.default_root_dir", "trainer.inference_mode"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.enable_checkpointing", "trainer.logger"),
)
"""Settings that a resumed run may change: its length, device and output. Data is compared by
fingerprint."""
FOR_SWEEPS = tuple(name for name in MAY_CHANGE if name not in (*LENGTH, "weights"))
"""Settings that the trials of one sweep may differ in beside those that it varies."""
VARIED = (
    *("loop", "compile", "weights", "data.source", "trainer.max_epochs", "trainer.max_steps"),
    *("tags", "notes"),
)
"""Those of them that a user varies from run to run."""
SWITCHES = (
    *("capturable", "differentiable", "foreach", "fused", "maximize"),
    *("verbose", "strict", "check_finite", "log_rank_zero_only", "skip_unreadable"),
)
"""Last parts of settings that change how something is computed or reported, but not what."""
DEFAULTS = {"compile": "no"} | {
    f"trainer.{name}": flag.default for name, flag in signature(Trainer).parameters.items()
}
ABSENT = object()


def varied(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a user varies from run to run, by their names on the command line.

    Those of data and model, and those of the Trainer that are not its defaults and affect training.
    """
    return {
        key: value
        for key, value in flat_settings(settings)
        if (key in VARIED or not key.startswith(MAY_CHANGE))
        and key.rpartition(".")[2] not in SWITCHES
        and value != DEFAULTS.get(key, ABSENT)
    }


def check_data(checkpoint: dict[str, Any], spec: DataSpec, path: Path) -> None:
    """Make sure that a run is resumed on the data that it was trained on.

    Raises:
        UserError: other data, even of the same name.
    """
    then = spec_of(checkpoint)
    if then.fingerprint != spec.fingerprint:
        raise UserError(
            f"{path}: this run was trained on {then.name} with the fingerprint "
            f"{then.fingerprint[:12]}, and --data.source has {spec.name} with "
            f"{spec.fingerprint[:12]}; pass the data that it was trained on, or begin a new run "
            f"with --weights {path}"
        )


def check_settings(checkpoint: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    """Make sure that a resumed run keeps the settings that affect training.

    Raises:
        UserError: the first that has changed; or a new length for a run that ended inside an epoch,
            whose other batches would be skipped.
    """
    then, now = (dict(flat_settings(part)) for part in (checkpoint.get("settings"), settings))
    if then and "data.split_seed" in now:  # in older checkpoints it was that of the run
        then.setdefault("data.split_seed", then["seed_everything"])
    limits = ("trainer.max_epochs", "trainer.max_steps")
    if then and any(then.get(key) != now.get(key) for key in limits) and _ended_inside(checkpoint):
        raise UserError(
            f"{path}: this run ended inside an epoch (max_steps or early stopping) and cannot be "
            "made longer, since the other batches of that epoch would be skipped; begin a new run "
            f"with --weights {path}"
        )
    if then and (change := changed_setting(then, now)):
        key, before, after = change
        raise UserError(
            f"{path}: this run was trained with {key} {before}, which is {after} now; a resumed "
            "run must keep its settings: pass the original value, or begin a new run with "
            f"--weights {path}"
        )


def changed_setting(
    then: dict[str, Any], now: dict[str, Any], may_change: tuple[str, ...] = MAY_CHANGE
) -> tuple[str, str, str] | None:
    """The first setting that has changed and may not, with both values in words, or None."""
    then, now = dict(flat_settings(then)), dict(flat_settings(now))
    for key in [*now, *then]:
        if not key.startswith(may_change) and then.get(key, ABSENT) != now.get(key, ABSENT):
            before, after = (repr(one[key]) if key in one else "unset" for one in (then, now))
            return key, before, after
    return None


def _ended_inside(checkpoint: dict[str, Any]) -> bool:
    try:
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        return bool(epochs["processed"] == epochs["ready"] and not batches["is_last_batch"])
    except (KeyError, TypeError):  # damaged: refused later by the loop
        return False


def check_split(checkpoint: dict[str, Any], data: Data, path: Path) -> None:
    """Make sure that the checkpoint was not trained on rows of val.

    Raises:
        UserError: the seed or size of the split differs from that in training.
    """
    other = spec_of(checkpoint).fingerprint != data.spec.fingerprint
    if other or not isinstance(data, ImageDataModule):  # which knows itself what is val
        return
    settings = checkpoint.get("settings")
    if settings is None:
        return
    split = settings["data"].get("init_args", settings["data"])
    seed = split.get("split_seed", settings["seed_everything"])  # older ones have only the latter
    then = seed, split.get("val_size", data.val_size)
    if then != (data.split_seed, data.val_size):
        raise UserError(
            f"{path} was trained with data.split_seed {then[0]} and data.val_size {then[1]:g}, "
            f"which are {data.split_seed} and {data.val_size:g} now, so that val has rows of its "
            "train split; pass the settings of the run (--config RUN/config.yaml)"
        )


def load_weights(model: nn.Module, checkpoint: dict[str, Any], path: Path) -> str:
    """Load the weights of a checkpoint that fit `model`; return a line about those that do not.

    Raises:
        UserError: none of them fits.
    """
    there, here = checkpoint["state_dict"], model.state_dict()
    fits = {
        name: weight
        for name, weight in there.items()
        if name in here and here[name].shape == weight.shape
    }
    learnt = {name for name, _ in model.named_parameters()}
    new = [name for name in here if name in learnt and name not in fits]
    left = [name for name in there if name not in fits]
    if not learnt & fits.keys():
        raise UserError(f"--weights {path}: no weight has the name and shape of one of this model")
    model.load_state_dict(fits, strict=False)
    line = f"weights: {len(learnt & fits.keys())} of {len(learnt)} tensors from {path}"
    if new:
        line += f"; new: {', '.join(f'{name} {list(here[name].shape)}' for name in new)}"
    if left := [name for name in left if name not in new]:
        line += f"; not used: {', '.join(left)}"
    return line


def flat_settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their names on the command line; empty lists and mappings are unset."""
    if isinstance(value, dict):
        for key, part in value.items():
            is_inner = key in ("class_path", "init_args")
            yield from flat_settings(part, name if is_inner else f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from flat_settings(part, f"{name}.{number}")
    elif value is not None and value != []:
        yield name, list(value) if isinstance(value, tuple) else value
