"""The task of a run comes back with its weights, and a file that has none says so in one line."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import twinloop
from tests.runs.trained import SPEC, assert_has, checkpoint, save
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Classification, Task


def test_a_run_gives_the_task_of_its_best_checkpoint(tmp_path: Path) -> None:
    last = save(tmp_path, "last", final := checkpoint())
    assert_has(twinloop.load(tmp_path), final)  # nothing was validated
    save(tmp_path, "best", best := checkpoint())
    drawn = torch.get_rng_state()
    task = twinloop.load(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert type(task) is Classification
    assert task.label_smoothing == 0.25
    assert task.spec == SPEC
    assert not any(part.training for part in task.modules())
    assert_has(task, best)
    assert_has(twinloop.load(last), final)


def test_weights_keep_their_type(tmp_path: Path) -> None:
    found = checkpoint()
    found["state_dict"] = {name: weight.double() for name, weight in found["state_dict"].items()}
    assert_has(twinloop.load(save(tmp_path, "best", found)), found)


def test_images_of_another_shape_and_bytes_are_refused(tmp_path: Path) -> None:
    task = twinloop.load(save(tmp_path, "best", checkpoint()))
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(task(images), task.network(images))
    for wrong, message in (
        (torch.rand(2, 3, 4, 4), "images of shape [2, 3, 4, 4], and the model was trained on [B, "),
        (torch.rand(4, 4), "images of shape [4, 4], and the model was trained on [B, 1, 4, 4]; r"),
        (images.byte(), "images of torch.uint8; divide them by 255 to floats in [0, 1]"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            task(wrong)


def network(class_path: str, **arguments: Any) -> Callable[[dict[str, Any]], Any]:
    new = {"class_path": class_path, "init_args": arguments}
    return lambda found: found["settings"]["model"]["init_args"].update(network=new)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another program": (lambda found: found.pop("data_spec"), "not a checkpoint of this project"),
    "from Python": (lambda found: found.pop("settings"), "does not name its task, since it was"),
    "no module": (network("mine.Net"), "its task cannot be built: mine.Net cannot be imported (No"),
    "no class": (network("os.Net"), "its task cannot be built: os.Net cannot be imported (modu"),
    "no network": (network("torch.optim.SGD"), 'its task cannot be built: "task.network": '),
    "no argument": (network("twinloop.models.MLP", width=3), 'its task cannot be built: "task.net'),
    "not a task": (
        lambda found: found["settings"].update(model={"class_path": "twinloop.models.MLP"}),
        "its task cannot be built: the task is a MLP, not a Task",
    ),
    "no task": (lambda found: found["settings"].update(model=3), "its task cannot be built: Type"),
    "another size": (
        network("twinloop.models.MLP", hidden=4),
        "a checkpoint of another model: network.layers.1.weight has shape (3, 16) there and (4, 16",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_loaded_is_named_in_one_line(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    change(found := checkpoint())
    path = save(tmp_path, "best", found)
    with pytest.raises(UserError, match=rf"^{re.escape(f'{path}: {message}')}[^\n]*$"):
        twinloop.load(tmp_path)


class Untyped(MLP):
    """A network with an argument that may be anything."""

    def __init__(self, shape, classes, made=None) -> None:  # type: ignore[no-untyped-def]
        super().__init__(shape, classes, hidden=3)


def hostile(folder: Path) -> list[Any]:
    """Settings that would make a folder or a file, if they were built."""
    call = {"class_path": "os.mkdir", "init_args": {"path": str(folder)}}
    opened = {"class_path": "logging.FileHandler", "init_args": {"filename": str(folder)}}
    text = f"{{class_path: os.mkdir, init_args: {{path: {folder}}}}}"
    return [call, opened, text, [call], ({"a": call},), [text]]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("place", ["network", "optimizer", "made"])
def test_a_checkpoint_builds_nothing_but_networks_optimisers_and_schedules(
    place: str, number: int, tmp_path: Path
) -> None:
    found = checkpoint()
    arguments = found["settings"]["model"]["init_args"]
    if place == "made":
        network(f"{__name__}.Untyped")(found)
        arguments = arguments["network"]["init_args"]
    arguments[place] = hostile(tmp_path / "made")[number]
    path = save(tmp_path, "last", found)
    for read in (twinloop.load, Task.load_from_checkpoint):
        with suppress(UserError):
            read(path)
        assert not (tmp_path / "made").exists()


def test_a_place_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}/nowhere: there is no such run or checkpoint"):
        twinloop.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"^{tmp_path}: a folder without a checkpoint$"):
        twinloop.load(tmp_path)
    for number in (9, 10):
        save(tmp_path / f"version_{number}-pets", "last", checkpoint())
    message = f"^{tmp_path}: a folder without a checkpoint; its newest run is .*/version_10-pets$"
    with pytest.raises(UserError, match=message):
        twinloop.load(tmp_path)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'twinloop' has no attribute 'lode'"):
        twinloop.lode  # noqa: B018
