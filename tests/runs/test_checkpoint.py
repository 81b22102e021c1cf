"""Checkpoints are written whole, and read without running anything."""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from tests.commands import Payload
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.files import save_whole
from twinloop.models import MLP
from twinloop.runs.checkpoint import (
    AtomicCheckpointIO,
    check_fits,
    read_checkpoint,
    resume_errors,
    spec_of,
)

SPEC = DataSpec("pets", "f" * 64, (1, 4, 4), ("cat", "dog"))
SOUND: dict[str, Any] = {"state_dict": {}, "data_spec": SPEC._asdict()}
DAMAGED = "truncated, damaged or not a checkpoint"


def checkpoint(model: nn.Module) -> dict[str, Any]:
    return {"state_dict": model.state_dict(), "data_spec": SPEC._asdict(), "epoch": 3}


@pytest.fixture
def model() -> MLP:
    return MLP((1, 4, 4), 2, hidden=3)


def test_a_saved_checkpoint_is_read_back(model: MLP, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    save_whole(checkpoint(model), path)
    found = read_checkpoint(path)
    assert found.keys() == {"state_dict", "data_spec", "epoch"}
    assert found["epoch"] == 3
    assert found["state_dict"].keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(found["state_dict"][name], weight), name
    assert spec_of(found) == SPEC
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_lightning_saves_whole_files_and_keeps_the_old_one_after_an_error(
    model: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint(model), str(path))
    unpicklable = {"state_dict": model.state_dict(), "function": lambda: 0}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint(unpicklable, str(path))
    assert spec_of(read_checkpoint(path)) == SPEC
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cut_off_checkpoint_is_named(share: float, model: MLP, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_whole(checkpoint(model), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=re.escape(f"{path}: {DAMAGED}; use ")):
        read_checkpoint(path)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "hostile.ckpt"
    hostile = SOUND | {"optimizer_states": Payload(tmp_path / "owned")}
    torch.save(hostile, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: refused, because it holds more than")):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(hostile))  # without PyTorch's archive around it
    with pytest.raises(UserError, match=re.escape(f"{path}: {DAMAGED}")):
        read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


SETTINGS: dict[str, Any] = {"seed_everything": 1, "data": {"val_size": 0.1}, "trainer": {}}
FOREIGN = {
    "no dictionary": ([1, 2], "state_dict missing"),
    "no weights": ({"data_spec": SPEC._asdict()}, "state_dict missing"),
    "weights that are none": ({"state_dict": 1, "data_spec": SPEC._asdict()}, "state_dict missing"),
    "no spec": ({"state_dict": {}}, "data_spec missing"),
    "half a spec": ({"state_dict": {}, "data_spec": {"name": "pets"}}, "data_spec missing or in"),
    "settings that are none": (SOUND | {"settings": torch.zeros(2)}, "settings missing or in"),
    "settings without data": (
        SOUND | {"settings": SETTINGS | {"data": True}},
        "settings missing or in",
    ),
    "no precision": (
        SOUND | {"settings": SETTINGS | {"trainer": {"precision": []}}},
        "settings missing or in",
    ),
    "a setting that is a tensor": (
        SOUND | {"settings": SETTINGS | {"model": {"eps": torch.zeros(2)}}},
        "settings missing or in",
    ),
    "no count": (SOUND | {"settings": SETTINGS, "global_step": torch.zeros(2)}, "global_step miss"),
    "optimisers that are none": (SOUND | {"optimizer_states": 1}, "optimizer_states missing or in"),
    "no groups": (SOUND | {"optimizer_states": [{"state": {}}]}, "optimizer_states missing or in"),
    "a tensor for the state of a weight": (
        SOUND | {"optimizer_states": [{"state": {0: torch.zeros(2)}, "param_groups": [{}]}]},
        "optimizer_states missing or in",
    ),
    "a number for a group": (
        SOUND | {"optimizer_states": [{"state": {0: {}}, "param_groups": [0]}]},
        "optimizer_states missing or in",
    ),
}


@pytest.mark.parametrize(("contents", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_checkpoint_of_another_project_is_named(
    contents: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.ckpt"
    torch.save(contents, path)
    expected = f"{path}: not a checkpoint of this project ({message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        read_checkpoint(path)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"ckpt_path: there is no file {tmp_path}/last.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_changed_byte_of_a_weight_is_found(model: MLP, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_whole(checkpoint(model), path)
    whole = path.read_bytes()
    values = model.state_dict()["layers.1.weight"]
    weight = values.numpy().tobytes()
    place = whole.index(weight)
    for offset in (0, len(weight) // 2, len(weight) - 1):
        path.write_bytes(whole[: place + offset] + b"\x55" + whole[place + offset + 1 :])
        torch.load(path)  # PyTorch itself sees nothing wrong
        with pytest.raises(UserError, match=re.escape(f"{path}: {DAMAGED}")):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path)["state_dict"]["layers.1.weight"], values)


def test_an_archive_that_would_unpack_to_more_is_refused(tmp_path: Path) -> None:
    zeros = {"state_dict": {"a": torch.zeros(5_000_000)}, "data_spec": SPEC._asdict()}
    save_whole(zeros, tmp_path / "large.ckpt")
    path = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(tmp_path / "large.ckpt") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=re.escape(f"{path}: {DAMAGED}")):
        read_checkpoint(path)


def laughs() -> list[Any]:
    """Nine to the twentieth parts."""
    part: list[Any] = []
    for _ in range(20):
        part = [part] * 9
    return part


def itself() -> list[Any]:
    """A list that is in itself."""
    part: list[Any] = []
    part.append(part)
    return part


LARGER = {
    "a weight": {"state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}},
    "in the optimiser": {"optimizer_states": [{0: torch.zeros(1).expand(10**6, 10**6)}]},
    "without memory": {"state_dict": {"a": torch.zeros(10**6, 10**6, device="meta")}},
    "sparse": {"state_dict": {"a": torch.zeros(2, 2).to_sparse()}},
    "lists of lists": {"loops": laughs()},
    "a tensor for a count": {"loops": {"fit_loop": {"epoch_progress": {"ready": torch.ones(1)}}}},
    "a list for a count": {"loops": {"fit_loop": {"epoch_progress": {"ready": [2]}}}},
    "itself": {"loops": itself()},
}


@pytest.mark.parametrize("part", LARGER.values(), ids=LARGER.keys())
def test_a_checkpoint_larger_than_its_file_or_malformed_is_refused(
    part: Any, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.ckpt"
    torch.save(SOUND | part, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: {DAMAGED}")):
        read_checkpoint(path)


SPECS: dict[str, dict[str, Any]] = {
    "no shape": {"image_shape": (1, 4)},
    "channels": {"image_shape": ("1", 4, 4)},
    "a tensor": {"image_shape": (torch.ones(2), 4, 4)},
    "no pixels": {"image_shape": (1, 0, 4)},
    "too many pixels": {"image_shape": (1, 10**5, 10**5)},
    "names that are none": {"class_names": (1, 2)},
    "a name of two lines": {"class_names": ("cat\n", "dog")},
    "a title of two lines": {"name": "a\nb"},
    "no fingerprint": {"fingerprint": None},
    "more": {"more": 1},
}


@pytest.mark.parametrize("change", SPECS.values(), ids=SPECS.keys())
def test_an_invalid_data_spec_is_refused(
    change: dict[str, Any], model: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(model) | {"data_spec": SPEC._asdict() | change}, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: not a checkpoint of this project (")):
        read_checkpoint(path)


def test_errors_before_the_first_step_are_reported_as_those_of_the_checkpoint() -> None:
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=4)
    schedule.load_state_dict({"_anneal_func_type": ["cos"]})

    def run(steps: tuple[Callable[[], Any], ...]) -> None:
        for step in steps:
            step()
        raise KeyError("loops")

    def fail(error: type[Exception], path: str | None, *steps: Callable[[], Any]) -> str:
        with pytest.raises(error) as caught, resume_errors(Path(path) if path else None):
            run(steps)
        return str(caught.value)

    refused = "last.ckpt: cannot resume from this checkpoint: "
    assert fail(UserError, "last.ckpt") == f"{refused}KeyError: 'loops'"
    assert fail(UserError, "last.ckpt", optimizer.step, schedule.step).startswith(refused)
    fail(KeyError, "last.ckpt", optimizer.step)
    fail(KeyError, None)
    with pytest.raises(UserError, match=r"^as it is$"), resume_errors(Path("last.ckpt")):
        raise UserError("as it is")


OTHERS = {
    "shape": (MLP((1, 4, 4), 2, hidden=4), "layers.1.weight has shape (4, 16) there and (3, 16)"),
    "more": (nn.ModuleDict({"layers": MLP((1, 4, 4), 2, hidden=3).layers, "new": nn.Linear(1, 1)}),
             "new.weight has shape (1, 1) there and none in this model"),
    "less": (nn.Identity(), "layers.1.weight has shape none there and (3, 16) in this model"),
}  # fmt: skip


@pytest.mark.parametrize(("other", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_a_checkpoint_of_another_model_names_the_weight(
    other: nn.Module, message: str, model: MLP
) -> None:
    check_fits(checkpoint(MLP((1, 4, 4), 2, hidden=3)), model, Path("last.ckpt"))
    expected = f"last.ckpt: a checkpoint of another model: {message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        check_fits(checkpoint(other), model, Path("last.ckpt"))
