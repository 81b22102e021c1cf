"""Write a checkpoint whole, and read one without running anything that it brings along."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.files import written_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to a checkpoint file, by `write_checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save `checkpoint` under `path`."""
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save a checkpoint, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    with written_whole(path) as part, part.open("wb") as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load tensors and plain types; a pickle that names anything else is refused.

    Raises:
        UserError: no such file, cut off, no checkpoint of this project, or one that wants to run
            code.
    """
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain types and could run "
            "code; use a checkpoint that this project has saved"
        ) from error
    except Exception as error:
        raise UserError(
            f"{path}: cut off or no checkpoint; use another one of its run (best.ckpt, last.ckpt)"
        ) from error
    parts: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    for name, names in (("state_dict", ()), ("data_spec", DataSpec._fields)):
        part = parts.get(name)
        if not isinstance(part, dict) or not part.keys() >= set(names):
            raise UserError(f"{path}: no checkpoint of this project ({name} missing or incomplete)")
    return parts


def spec_of(checkpoint: dict[str, Any]) -> DataSpec:
    """The data set that a checkpoint was trained on."""
    facts = checkpoint["data_spec"]
    return DataSpec(
        str(facts["name"]),
        str(facts["fingerprint"]),
        tuple(facts["image_shape"]),
        tuple(facts["class_names"]),
    )


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
