"""Load the trained task of a run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinloop.errors import UserError, as_user_error
from twinloop.files import expanded
from twinloop.runs.checkpoint import check_fits, read_checkpoint
from twinloop.runs.folder import checkpoint_of
from twinloop.tasks import Task
from twinloop.tasks.rebuild import model_of


def load(run: str | Path) -> Task:
    """Load the task of a run with its trained weights, on the CPU, in evaluation mode.

    `task.spec` has the class names and the shape of an image. `task(images)` takes floats
    `[B, C, H, W]` in [0, 1]; only `task.network` takes images of other sizes.

    Args:
        run: The folder of a run, whose best checkpoint is loaded, or of an export; or the path of
            any checkpoint.

    Raises:
        UserError: there is no such run, its checkpoint is of another program, damaged, or of a task
            that was trained from Python, or a class that it names cannot be imported.
    """
    path = checkpoint_of(expanded(run))
    return build(read_checkpoint(path), path)


def build(checkpoint: dict[str, Any], path: Path) -> Task:
    """The task of a `checkpoint`, which was read from `path`: see `load`."""
    if not model_of(checkpoint):
        raise UserError(
            f"{path}: does not name its task, since it was trained from Python; use "
            "load_from_checkpoint of its class, with the arguments that it was built with"
        )
    with as_user_error(f"{path}: its task cannot be built"):
        try:
            # Initial weights are drawn, which may not change what the user draws next.
            with torch.random.fork_rng(devices=[]):
                task = Task.rebuild(checkpoint)
        except UserError as error:
            raise UserError(f"{path}: its task cannot be built: {error}") from error
    check_fits(checkpoint, task, path)
    for name, weight in task.state_dict(keep_vars=True).items():
        weight.data = weight.data.to(checkpoint["state_dict"][name].dtype)
    task.load_state_dict(checkpoint["state_dict"])
    task.register_forward_pre_hook(check_images)
    return task.eval()


def check_images(task: Task, inputs: tuple[Tensor, ...]) -> None:
    """Make sure that images are of the shape and the range that a task was trained on.

    Raises:
        UserError: another shape, or integers.
    """
    shape, wanted = tuple(inputs[0].shape), task.spec.image_shape
    if shape[1:] != wanted:
        channels, height, width = wanted
        raise UserError(
            f"images of shape {list(shape)}, and the model was trained on [B, {channels}, {height},"
            f" {width}]; resize them (twinloop.data.images.read_images does), or call task.network"
        )
    if not inputs[0].is_floating_point():
        raise UserError(f"images of {inputs[0].dtype}; divide them by 255 to floats in [0, 1]")
