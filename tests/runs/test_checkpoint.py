"""Checkpoints are written whole, and read without running anything."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

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


def checkpoint(model: nn.Module) -> dict[str, Any]:
    return {"state_dict": model.state_dict(), "data_spec": SPEC._asdict(), "epoch": 3}


@pytest.fixture
def model() -> MLP:
    return MLP((1, 4, 4), 2, hidden=3)


def test_what_was_written_is_read(model: MLP, tmp_path: Path) -> None:
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


def test_lightning_writes_the_same_way(model: MLP, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(checkpoint(model), str(tmp_path / "last.ckpt"))
    assert spec_of(read_checkpoint(tmp_path / "last.ckpt")) == SPEC


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [no_room, interrupted])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(
    step: str, failure: Any, model: MLP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    save_whole(checkpoint(model), path)
    before = path.read_bytes()
    monkeypatch.setattr(os if step == "fsync" else Path, step, failure)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_whole(checkpoint(MLP((1, 4, 4), 2)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_cannot_be_saved_leaves_the_old_file_whole(model: MLP, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_whole(checkpoint(model), path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_whole({"state_dict": model.state_dict(), "function": lambda: 0}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_cut_off_checkpoint_is_named(share: float, model: MLP, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_whole(checkpoint(model), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        UserError, match=re.escape(f"{path}: truncated, damaged or not a checkpoint; use ")
    ):
        read_checkpoint(path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def save_bare(checkpoint: dict[str, Any], path: Path) -> None:
    """A pickle that is not in PyTorch's archive."""
    path.write_bytes(pickle.dumps(checkpoint))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (torch.save, "refused, because it holds more than"),
        (save_bare, "truncated, damaged or not a "),
    ],
)
@pytest.mark.parametrize("key", ["state_dict", "optimizer_states"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    key: str, save: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.ckpt"
    hostile = {"state_dict": {}, "data_spec": SPEC._asdict(), key: Payload(tmp_path / "owned")}
    save(hostile, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


SOUND: dict[str, Any] = {"state_dict": {}, "data_spec": SPEC._asdict()}
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
    "no count": (SOUND | {"settings": SETTINGS, "global_step": torch.zeros(2)}, "global_step miss"),
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
    for offset in range(0, len(weight), 7):
        path.write_bytes(whole[: place + offset] + b"\x55" + whole[place + offset + 1 :])
        torch.load(path)  # PyTorch itself sees nothing wrong
        with pytest.raises(UserError, match=re.escape(f"{path}: truncated, damaged or not a ")):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(read_checkpoint(path)["state_dict"]["layers.1.weight"], values)


def repacked(source: Path, path: Path) -> None:
    """The same archive, compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def test_an_archive_that_would_unpack_to_more_is_refused(tmp_path: Path) -> None:
    zeros = {"state_dict": {"a": torch.zeros(50_000_000)}, "data_spec": SPEC._asdict()}
    save_whole(zeros, tmp_path / "large.ckpt")
    path = tmp_path / "bomb.ckpt"
    repacked(tmp_path / "large.ckpt", path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=re.escape(f"{path}: truncated, damaged or not a ")):
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
    "itself": {"loops": itself()},
}


@pytest.mark.parametrize("part", LARGER.values(), ids=LARGER.keys())
def test_what_would_be_larger_than_the_file_is_refused(part: Any, tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": {}, "data_spec": SPEC._asdict()} | part, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: truncated, damaged or not a ")):
        read_checkpoint(path)


def test_a_tensor_where_a_loop_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    loops = {"fit_loop": {"epoch_progress": {"current": {"ready": torch.ones(1)}}}}
    torch.save({"state_dict": {}, "data_spec": SPEC._asdict(), "loops": loops}, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: truncated, damaged or not a ")):
        read_checkpoint(path)


SPECS: dict[str, dict[str, Any]] = {
    "no shape": {"image_shape": (1, 4)},
    "words": {"image_shape": (1, "4", 4)},
    "channels": {"image_shape": (7, 4, 4)},
    "a tensor": {"image_shape": (torch.ones(2), 4, 4)},
    "no pixels": {"image_shape": (1, 0, 4)},
    "too many pixels": {"image_shape": (1, 10**5, 10**5)},
    "names that are none": {"class_names": (1, 2)},
    "one name": {"class_names": 5},
    "a name of two lines": {"class_names": ("cat\n", "dog")},
    "a title of two lines": {"name": "a\nb"},
    "no fingerprint": {"fingerprint": None},
    "more": {"more": 1},
}


@pytest.mark.parametrize("change", SPECS.values(), ids=SPECS.keys())
def test_a_data_set_that_cannot_be_is_refused(
    change: dict[str, Any], model: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(model) | {"data_spec": SPEC._asdict() | change}, path)
    with pytest.raises(UserError, match=re.escape(f"{path}: not a checkpoint of this project (")):
        read_checkpoint(path)


def test_a_checkpoint_is_blamed_up_to_the_first_step() -> None:
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    path = Path("last.ckpt")
    message = r"^last.ckpt: cannot resume from this checkpoint: KeyError: 'loops'$"
    with pytest.raises(UserError, match=message), resume_errors(path):
        raise KeyError("loops")

    def step() -> None:
        optimizer.step()
        raise KeyError("loops")

    with pytest.raises(KeyError), resume_errors(path):
        step()
    with pytest.raises(KeyError), resume_errors(None):
        raise KeyError("loops")

    schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=4)
    schedule.load_state_dict({"_anneal_func_type": ["cos"]})

    def step_a_schedule() -> None:
        optimizer.step()
        schedule.step()

    with (
        pytest.raises(UserError, match=r"last.ckpt: cannot resume .*: ValueError"),
        resume_errors(path),
    ):
        step_a_schedule()
    with pytest.raises(UserError, match=r"^as it is$"), resume_errors(path):
        raise UserError("as it is")


def test_a_checkpoint_fits_its_model(model: MLP) -> None:
    check_fits(checkpoint(model), MLP((1, 4, 4), 2, hidden=3), Path("last.ckpt"))


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
    expected = f"last.ckpt: a checkpoint of another model: {message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        check_fits(checkpoint(other), model, Path("last.ckpt"))
