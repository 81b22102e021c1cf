"""Write a checkpoint whole, and read one without running anything that it brings along."""

import os
import pickle
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

from twinloop.data.decode import MAX_PIXELS
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error
from twinloop.files import save_whole
from twinloop.runs.stop import Stopped

MAX_PARTS = 1_000_000
"""Lists in lists may name each other so often that walking through them would never end."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to a checkpoint file, by `save_whole`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save `checkpoint` under `path`, in folders that are made; elsewhere as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_whole(checkpoint, Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load tensors and plain types; a pickle that names anything else is refused.

    Raises:
        UserError: no such file, cut off, no checkpoint of this project, or one that wants to run
            code.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check_parts(checkpoint)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain types and could run "
            "code; use a checkpoint that this project has saved"
        ) from error
    except Exception as error:
        raise UserError(
            f"{path}: cut off, damaged or no checkpoint; "
            "use another one of its run (best.ckpt, last.ckpt)"
        ) from error
    parts: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    for name, fits in (("state_dict", _are_weights), ("data_spec", _is_spec)):
        part = parts.get(name)
        if not isinstance(part, dict) or not fits(part):
            raise UserError(f"{path}: no checkpoint of this project ({name} missing or incomplete)")
    for name, is_valid in (("settings", _are_settings), ("global_step", _is_count)):
        if parts.get(name) is not None and not is_valid(parts[name]):
            raise UserError(f"{path}: no checkpoint of this project ({name} damaged)")
    return parts


def _check_archive(path: Path) -> None:
    """Read every byte once: PyTorch itself does not look at the check sums.

    Raises:
        zipfile.BadZipFile: a byte is not as it was saved, or more would come out than is there.
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
    """The data set that a checkpoint was trained on, as `read_checkpoint` has checked it."""
    facts = checkpoint["data_spec"]
    return DataSpec(**facts | {name: tuple(facts[name]) for name in ("image_shape", "class_names")})


def _check_parts(checkpoint: Any) -> None:
    """Look at all that is in a checkpoint.

    Raises:
        ValueError: more than a run ever saves, a tensor that would be larger than the file, or one
            where a loop counts.
    """
    for part in _parts(checkpoint):
        if isinstance(part, Tensor) and (
            part.is_meta
            or part.layout != torch.strided
            or part.nbytes > part.untyped_storage().nbytes()
        ):
            raise ValueError("a tensor that is larger than what was saved of it")
    loops = checkpoint.get("loops") if isinstance(checkpoint, dict) else None
    if any(isinstance(part, Tensor) for part in _parts(loops)):
        raise ValueError("a tensor where a loop counts")


def _parts(value: Any) -> Iterator[Any]:
    """`value` and all that is in it, every part as often as it is named."""
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


def _are_weights(weights: dict[Any, Any]) -> bool:
    return all(
        isinstance(name, str) and isinstance(weight, Tensor) and not weight.is_complex()
        for name, weight in weights.items()
    )


def _are_settings(settings: Any) -> bool:
    """Whether a checkpoint's `settings` have what other commands read of them."""
    try:
        precision = settings["trainer"].get("precision")
        values = settings["seed_everything"], settings["data"]["val_size"]
    except (AttributeError, KeyError, TypeError, IndexError):
        return False
    return isinstance(precision, str | int | None) and all(
        type(value) in (bool, int, float) for value in values
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_spec(facts: dict[str, Any]) -> bool:
    """Whether a checkpoint's `data_spec` is what `spec_of` makes a DataSpec of."""
    try:
        channels, height, width = facts["image_shape"]
        return (
            facts.keys() == set(DataSpec._fields)
            and all(type(size) is int and size > 0 for size in (channels, height, width))
            and channels in (1, 3)
            and height * width <= MAX_PIXELS
            and all(name.isprintable() for name in (facts["name"], *facts["class_names"]))
            and isinstance(facts["fingerprint"], str)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def check_fits(checkpoint: dict[str, Any], model: nn.Module, path: Path) -> None:
    """Make sure that the weights in `checkpoint` are those of `model`, name by name.

    Raises:
        UserError: the first weight that differs in name or shape.
    """
    there = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
    here = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            raise UserError(
                f"{path}: a checkpoint of another model: {name} has shape "
                f"{there.get(name, 'none')} there and {here.get(name, 'none')} here; "
                "pass the --config it was trained with"
            )


@contextmanager
def resume_errors(path: Path | None) -> Iterator[None]:
    """Tell what goes wrong up to the first step as a mistake in the checkpoint at `path`, if any.

    What its schedule was restored to is first used after that step.

    Raises:
        UserError: in place of an error from what was read of it.
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
    except Stopped:
        raise
    except Exception as error:
        if stepped and not _is_of_a_schedule(error):
            raise
        with as_user_error(f"{path}: cannot go on from this checkpoint"):
            raise
    finally:
        handle.remove()


def _is_of_a_schedule(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename == lr_scheduler.__file__ for frame, _ in frames)
