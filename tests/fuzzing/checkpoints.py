"""Checkpoints that are cut off, flipped, or hold something else than they should."""

from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzzing.damage import damaged, mutated
from tests.fuzzing.sandbox import MLP, SHORT, Case, Draw, Sandbox


def command_for(path: Path, draw: Draw) -> list[str]:
    """One of the commands that read a checkpoint."""
    data = ["--config", MLP, "--data.source", "digits"]
    which = draw(st.sampled_from(["test", "validate", "fit", "homemade", "compare"]))
    if which == "compare":
        return ["compare", "--config", MLP, "--against", str(path)]
    fitting = ["fit", *data, "--model.schedule", "null", "--trainer.max_epochs", "2"]
    if which in ("fit", "homemade"):
        loop = "homemade" if which == "homemade" else "lightning"
        return [*fitting, *SHORT, "--loop", loop, "--ckpt_path", str(path)]
    return [which, *data, "--ckpt_path", str(path)]


def checkpoint_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """A checkpoint cut off or flipped at random: the same numbers come out, or none."""
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    path = sandbox.new("last.ckpt")
    path.write_bytes(damaged(sandbox.checkpoints[loop].read_bytes(), draw))
    command = command_for(path, draw)
    return Case(command, path, sandbox.tested if command[0] == "test" else None)


def checkpoint_values(draw: Draw, sandbox: Sandbox) -> Case:
    """A whole checkpoint with one thing in it changed."""
    content = torch.load(sandbox.checkpoints[draw(st.sampled_from(["lightning", "homemade"]))])
    content = json_free(content)
    plain: st.SearchStrategy[Any] = st.sampled_from(
        [
            *(None, True, -1, 0, 10**30, float("nan"), "x", b"x", [], {}, ()),
            *(torch.zeros(2), torch.zeros(0, 3), torch.tensor(1 + 1j)),
            torch.zeros(1).expand(10**6, 10**6),
        ]
    )
    content = mutated(content, draw, plain)
    path = sandbox.new("last.ckpt")
    torch.save(content, path)
    return Case(command_for(path, draw), path)


def json_free(value: Any) -> Any:
    """Copies of all containers, ordered dictionaries and tuples as plain ones."""
    if isinstance(value, dict):
        return {key: json_free(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_free(part) for part in value]
    return value
