"""Every value of a run, for a comparison of the loops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass
class Record:
    """Every value of a run."""

    steps: list[dict[str, Tensor]] = field(default_factory=list)
    """Of each batch its loss; of each step gradient norm and learning rates, before clipping."""
    metrics: list[dict[str, Tensor]] = field(default_factory=list)
    """Everything logged so far, after each validation and each epoch."""
    start: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers, at the start and at the end."""
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    """The optimiser's state at the end, by the path in it."""


def gradient(optimizer: Optimizer) -> dict[str, Tensor]:
    """The norm of the gradient, and the learning rate of each group."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
    return {"gradient norm": torch.stack(norms).norm(), "learning rates": rates}


def logged(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The metrics of whole epochs, without those of single steps."""
    return {
        name: torch.tensor(float(value), dtype=torch.float64)
        for name, value in metrics.items()
        if name.startswith(("train/", "val/")) and not name.endswith("_step")
    }


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the tensors."""
    return {name: value.detach().clone() for name, value in state.items()}


def flat(value: Any, name: str = "") -> dict[str, Tensor]:
    """The state of an optimiser, or any part of a checkpoint, as tensors by path."""
    if isinstance(value, dict | list | tuple):
        found: dict[str, Tensor] = {}
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            found |= flat(part, f"{name}/{key}")
        return found
    if isinstance(value, Tensor):
        return {name: value.detach().clone()}
    return {} if value is None or isinstance(value, str) else {name: torch.tensor(value)}
