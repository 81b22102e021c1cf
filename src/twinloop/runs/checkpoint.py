"""Write checkpoints atomically, and read them without running code that they may contain."""

import json
import os
import pickle
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error, import_extra
from twinloop.files import save_whole
from twinloop.runs.history import Pruned
from twinloop.runs.stop import Stopped

MAX_PARTS = 1_000_000
"""A limit, since nested lists that share references can expand without end."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin, with atomic writes."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a local file atomically, and a remote one as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_whole(checkpoint, Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types, or the weights of an export and its config.

    Raises:
        UserError: a file that is missing, truncated, or not a checkpoint of this project, or a
            pickle with other types, which could run code.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        checkpoint = _read(path)
        _check_parts(checkpoint)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain types and could run "
            "code; use a checkpoint saved by this project"
        ) from error
    except Exception as error:
        raise UserError(
            f"{path}: truncated, damaged or not a checkpoint; "
            "use another one of its run (best.ckpt, last.ckpt)"
        ) from error
    parts: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    for name, is_valid in VALID.items():
        part = parts.get(name)
        if not (is_valid(part) or (part is None and name in OPTIONAL)):
            raise UserError(f"{path}: not a checkpoint of this project ({name} missing or invalid)")
    return parts


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        load_file = import_extra("safetensors.torch").load_file
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        return {**config, "state_dict": load_file(path)}
    _check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Verify the checksums, which PyTorch does not.

    Raises:
        zipfile.BadZipFile: a changed byte, or a compressed archive, which could expand.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile("PyTorch does not compress")
        broken = archive.testzip()
    if broken:
        raise zipfile.BadZipFile(f"{broken} is damaged")


def spec_of(checkpoint: dict[str, Any]) -> DataSpec:
    """The data set that a checkpoint was trained on."""
    return DataSpec.of(checkpoint["data_spec"])


def _check_parts(checkpoint: Any) -> None:
    """Check the size of a checkpoint's content, and the types of its counters.

    Raises:
        ValueError: too many parts, a tensor larger than its storage, a tensor as a counter, or a
            count that is no number.
    """
    for part in _parts(checkpoint):
        if isinstance(part, Tensor) and (
            part.is_meta
            or part.layout != torch.strided
            or part.nbytes > part.untyped_storage().nbytes()
        ):
            raise ValueError("a tensor is larger than its storage")
    for part in _parts(checkpoint.get("loops") if _is_dict(checkpoint) else None):
        if isinstance(part, Tensor):
            raise ValueError("a counter of a loop is a tensor")
        if _is_dict(part) and "ready" in part and not all(map(_is_count, part.values())):
            raise ValueError("a count of batches or epochs is not a whole number")


def _parts(value: Any) -> Iterator[Any]:
    """`value` and everything in it, each part as often as it is referenced."""
    left, count = [value], 0
    while left:
        part = left.pop()
        count += 1
        yield part
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
        if count + len(left) > MAX_PARTS:
            raise ValueError(f"over {MAX_PARTS:,} parts")


def _are_weights(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) and not weight.is_complex()
        for name, weight in weights.items()
    )


def _are_settings(settings: Any) -> bool:
    """Whether a checkpoint's `settings` have those that other commands read."""
    try:
        precision = settings["trainer"].get("precision")
        data = settings["data"].get("init_args", settings["data"])
        values = settings["seed_everything"], data.get("val_size", 0), data.get("split_seed", 0)
    except (AttributeError, KeyError, TypeError, IndexError):
        return False
    return (
        isinstance(precision, str | int | None)
        and all(type(value) in (bool, int, float) for value in values)
        and not any(isinstance(part, Tensor) for part in _parts(settings))
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _are_optimizers(states: Any) -> bool:
    """Whether each state of `optimizer_states` has a mapping for each parameter and each group."""
    try:
        parts = [(*state["state"].values(), *state["param_groups"]) for state in states]
    except (AttributeError, KeyError, TypeError, IndexError):
        return False
    return all(_is_dict(part) for one in parts for part in one)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_spec(facts: Any) -> bool:
    """Whether a checkpoint's `data_spec` is valid for `spec_of`."""
    try:
        return DataSpec(**facts).is_valid() and facts.keys() == set(DataSpec._fields)
    except (AttributeError, TypeError):
        return False


VALID: dict[str, Callable[[Any], bool]] = {
    "state_dict": _are_weights,
    "data_spec": _is_spec,
    "settings": _are_settings,
    "global_step": _is_count,
    "optimizer_states": _are_optimizers,
}
"""The parts of a checkpoint that are read without Lightning, and their checks."""
OPTIONAL = ("settings", "global_step", "optimizer_states")


def check_fits(checkpoint: dict[str, Any], model: nn.Module, path: Path) -> None:
    """Make sure that the weights in `checkpoint` fit `model`.

    Raises:
        UserError: the first weight that differs in name or shape.
    """
    there = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
    here = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            raise UserError(
                f"{path}: a checkpoint of another model: {name} has shape "
                f"{there.get(name, 'none')} there and {here.get(name, 'none')} in this model; "
                "use the settings it was trained with (config.yaml in its run folder)"
            )


@contextmanager
def resume_errors(path: Path | None) -> Iterator[None]:
    """Re-raise an error up to the first step as one in the checkpoint at `path`, if any.

    The restored state of a schedule is first used after that step.

    Raises:
        UserError: the content of the checkpoint is invalid.
    """
    if path is None:
        yield
        return
    stepped = False

    def step(*_: Any) -> None:
        nonlocal stepped
        stepped = True

    handle = register_optimizer_step_post_hook(step)
    try:
        yield
    except (Stopped, Pruned):
        raise
    except Exception as error:
        if stepped and not _in_scheduler(error):
            raise
        with as_user_error(f"{path}: cannot resume from this checkpoint"):
            raise
    finally:
        handle.remove()


def _in_scheduler(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename == lr_scheduler.__file__ for frame, _ in frames)
