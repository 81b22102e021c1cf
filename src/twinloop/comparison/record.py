"""Every number that a run leaves, from either loop, and where two runs differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.optim import Optimizer

from twinloop.learner import Callback, Learner, Order


@dataclass
class Record:
    """Every number that a run leaves."""

    steps: list[dict[str, Tensor]] = field(default_factory=list)
    """Of each batch its loss; of each step gradient norm and learning rates, before clipping."""
    metrics: list[dict[str, Tensor]] = field(default_factory=list)
    """Everything logged so far, after each validation and each epoch."""
    start: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers, at the start and at the end."""
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    """The optimiser's state at the end, by the path in it."""


class Recorder(Checkpoint):
    """Keeps a Trainer's record. As a `Checkpoint` it comes after the task's own epoch end."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The weights before the first step."""
        self.record.start = copied(pl_module.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The weights and the optimiser after the last one."""
        self.record.state = copied(pl_module.state_dict())
        self.record.optimizer = flat(trainer.optimizers[0].state_dict())

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        """The loss, divided where batches are accumulated."""
        self.record.steps.append({"loss": outputs["loss"].detach().clone()})

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """The gradient before it is clipped."""
        self.record.steps.append(_gradient(optimizer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What validation has logged."""
        self.record.metrics.append(_logged(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the epoch has logged."""
        self.record.metrics.append(_logged(trainer.callback_metrics))


class RecorderCB(Callback):
    """Keeps a Learner's record."""

    order = Order.CLIP - 1

    def __init__(self, record: Record) -> None:
        self.record = record

    def before_fit(self, learn: Learner) -> None:
        """The weights before the first step."""
        self.record.start = copied(learn.model.state_dict())

    def after_fit(self, learn: Learner) -> None:
        """The weights and the optimiser after the last one."""
        self.record.state = copied(learn.model.state_dict())
        self.record.optimizer = flat(learn.opt.state_dict())

    def before_step(self, learn: Learner) -> None:
        """The gradient before it is clipped."""
        self.record.steps.append(_gradient(learn.opt))

    def after_batch(self, learn: Learner) -> None:
        """The loss, divided where batches are accumulated."""
        if learn.training:
            self.record.steps.append({"loss": learn.loss.detach().clone()})

    def after_epoch(self, learn: Learner) -> None:
        """What the pass has logged."""
        self.record.metrics.append(_logged(learn.metrics))


def differences(one: Record, other: Record) -> list[str]:
    """Where two records differ, in the order in which it came about; empty if nowhere.

    Raises:
        AssertionError: a record of a run whose weights have not moved, which would prove nothing.
    """
    for run in (one, other):
        assert any(not torch.equal(run.start[name], run.state[name]) for name in run.start)
    found = compare_tensors("start", one.start, other.start)
    found += _compare_lists("step", one.steps, other.steps)
    found += _compare_lists("metrics", one.metrics, other.metrics)
    found += compare_tensors("weights", one.state, other.state)
    return found + compare_tensors("optimiser", one.optimizer, other.optimizer)


def _compare_lists(
    what: str, one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]
) -> list[str]:
    found = [] if len(one) == len(other) else [f"{what}: {len(one)} against {len(other)}"]
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        found += compare_tensors(f"{what} {number}", a, b)
    return found


def compare_tensors(what: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Where two sets of named tensors differ: in their names, types, shapes or any bit."""
    found = [f"{what}: only one has {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{what}: {name} is {a.dtype} {tuple(a.shape)} against {b.dtype}")
        elif not _same_bits(a, b):
            found.append(f"{what}: {name} differs by up to {_distance(a, b)}")
    return found


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Stricter than `torch.equal` about zero and minus zero, and happy with equal NaNs."""
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    return torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))


def _distance(a: Tensor, b: Tensor) -> str:
    """The largest difference: absolute, relative, and in units in the last place."""
    one, other = a.detach().cpu().double().flatten(), b.detach().cpu().double().flatten()
    equal = (one == other) | (one.isnan() & other.isnan())
    far = torch.where(equal, 0.0, (one - other).abs())
    worst = int(far.argmax())
    if not math.isfinite(far[worst]):
        return (
            f"{float(far[worst]):.3g} ({float(one[worst]):.3g} against {float(other[worst]):.3g})"
        )
    size = max(float(one[worst].abs()), 1e-300)
    text = f"{float(far[worst]):.3g} ({float(far[worst]) / size:.1g} relative"
    if a.is_floating_point():
        unit = torch.finfo(a.dtype).eps * 2.0 ** math.floor(math.log2(size))
        text += f", {float(far[worst]) / unit:.3g} units in the last place"
    return f"{text})"


def _gradient(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
    return {"gradient norm": torch.stack(norms).norm(), "learning rates": rates}


def _logged(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of epochs; what Lightning logs of single steps is in the record of steps."""
    return {
        name: torch.tensor(float(value), dtype=torch.float64)
        for name, value in metrics.items()
        if name.startswith(("train/", "val/")) and not name.endswith("_step")
    }


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, in memory of their own."""
    return {name: value.detach().clone() for name, value in state.items()}


def flat(value: Any, name: str = "") -> dict[str, Tensor]:
    """An optimiser's state, or any part of a checkpoint, as tensors by their path in it."""
    if isinstance(value, dict | list | tuple):
        found: dict[str, Tensor] = {}
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            found |= flat(part, f"{name}/{key}")
        return found
    if isinstance(value, Tensor):
        return {name: value.detach().clone()}
    return {} if value is None or isinstance(value, str) else {name: torch.tensor(value)}
