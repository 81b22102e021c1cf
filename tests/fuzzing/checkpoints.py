"""Checkpoints that are cut off, flipped, hold something else than they should, or run code."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tests.commands import Payload
from tests.fuzzing.damage import damaged, mutated
from tests.fuzzing.sandbox import LONGER, MLP, MOMENTS, TINY, Case, Draw, Sandbox

COMMANDS = ("test", "validate", "predict", "lightning", "homemade", "compare")
PLACES = ("elsewhere", "last", "best")


def one_of(draw: Draw, sandbox: Sandbox) -> Path:
    """A sound checkpoint: of either loop, from inside an epoch, between two, or the last."""
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    return sandbox.checkpoints[loop, draw(st.sampled_from(list(MOMENTS)))]


def reading(content: bytes, sound: Path, draw: Draw, sandbox: Sandbox) -> Case:
    """One of the commands that read a checkpoint, with `content` where it does.

    There is a run of the experiment in any case, whose best or last checkpoint may be the one.
    """
    # A draw may end the input, so before anything is made.
    command = draw(st.sampled_from(COMMANDS))
    place = "elsewhere" if command == "compare" else draw(st.sampled_from(PLACES))
    run = Path("lightning_logs", "mlp", "version_0-tiny", "checkpoints")
    (sandbox.work / run).mkdir(parents=True)
    shutil.copy(sound.parent.with_name("config.yaml"), sandbox.work / run.parent)
    for name in ("best.ckpt", "last.ckpt"):
        shutil.copy(sound, sandbox.work / run / name)
    path = sandbox.new("last.ckpt") if place == "elsewhere" else run / f"{place}.ckpt"
    (sandbox.work / path).write_bytes(content)
    data = ["--config", MLP, *TINY]
    asked = ["--ckpt_path", str(path) if place == "elsewhere" else place]
    if command == "compare":
        return Case(["compare", "--config", MLP, "--against", str(path)], path)
    if command == "predict":
        asked += ["--data.images", "tiny/cat"]
    if command in ("lightning", "homemade"):
        # The best one is read at the end only, if no better one is saved before.
        asked[1] = "last" if place == "best" else asked[1]
        return Case(["fit", *data, *LONGER, "--loop", command, *asked], path)
    return Case([command, *data, *asked], path)


def checkpoint_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """A checkpoint cut off or flipped at random: the same numbers come out, or none."""
    sound = one_of(draw, sandbox)
    case = reading(damaged(sound.read_bytes(), draw), sound, draw, sandbox)
    same = case.command[0] == "test" and sound == sandbox.checkpoints["lightning", "at the end"]
    return Case(case.command, case.file, sandbox.tested if same else None)


def checkpoint_values(draw: Draw, sandbox: Sandbox) -> Case:
    """A whole checkpoint with one thing in it changed."""
    sound = one_of(draw, sandbox)
    plain: st.SearchStrategy[Any] = st.sampled_from(
        [
            *(None, True, -1, 0, 10**30, float("nan"), "x", b"x", [], {}, ()),
            *(torch.zeros(2), torch.zeros(0, 3), torch.tensor(1 + 1j)),
            torch.zeros(1).expand(10**6, 10**6),
        ]
    )
    content = mutated(json_free(torch.load(sound)), draw, plain)
    path = sandbox.new("changed.ckpt")
    torch.save(content, path)
    return reading(path.read_bytes(), sound, draw, sandbox)


def checkpoint_code(draw: Draw, sandbox: Sandbox) -> Case:
    """A checkpoint with something in it that runs where it is unpickled, or a bare pickle."""
    sound = one_of(draw, sandbox)
    content = mutated(
        json_free(torch.load(sound)), draw, st.just(Payload(Path("owned"))), changes=["set"]
    )
    path = sandbox.new("changed.ckpt")
    if draw(st.booleans()):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    case = reading(path.read_bytes(), sound, draw, sandbox)
    # A better one may be saved in place of the best one before that is read.
    fitting = case.command[0] == "fit" and Path(case.file).name == "best.ckpt"
    return Case(case.command, case.file, refused=not fitting)


def json_free(value: Any) -> Any:
    """Copies of all containers, ordered dictionaries and tuples as plain ones."""
    if isinstance(value, dict):
        return {key: json_free(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_free(part) for part in value]
    return value
