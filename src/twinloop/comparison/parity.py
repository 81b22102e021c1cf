"""The proof: one factory, both loops, and every number that they leave, compared bit for bit.

A cell of the table is an experiment: a model, an optimiser, a schedule, a precision and so on.
`record` trains it in either loop, `differences` says where two records differ, and
`python -m twinloop parity` prints the table.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, EMAWeightAveraging
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from twinloop.comparison.bridge import build_learner
from twinloop.data.augment import Augmentation
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
from twinloop.learner import Callback, Learner
from twinloop.models import (
    MLP,
    BottleneckAutoencoder,
    LessonAutoencoder,
    LessonClassifier,
    SequentialClassifier,
)
from twinloop.tasks import Classification, Cosine, OneCycle, Plateau, Reconstruction, Task
from twinloop.tasks.schedule import Schedule

Loop = Literal["lightning", "homemade"]
LOOPS: tuple[Loop, Loop] = ("lightning", "homemade")


def _batch_normed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return SequentialClassifier(shape, classes, widths=(8, 16), dropout=0.5)


def _bottleneck(shape: tuple[int, int, int]) -> BottleneckAutoencoder:
    return BottleneckAutoencoder(shape, code_size=8, widths=(8, 16))


def _groups(parameters: Iterator[nn.Parameter]) -> Optimizer:
    first, *rest = parameters
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.01, "momentum": 0.5}]
    return SGD([*groups, {"params": rest}], lr=0.05)


MODELS: dict[str, Callable[[DataSpec, Any, Schedule | None], Task]] = {
    "MLP": lambda s, o, c: Classification(MLP, o, s, c),
    "lesson CNN": lambda s, o, c: Classification(LessonClassifier, o, s, c),
    "batch norm, dropout": lambda s, o, c: Classification(
        _batch_normed, o, s, c, label_smoothing=0.1
    ),
    "lesson autoencoder": lambda s, o, c: Reconstruction(LessonAutoencoder, o, s, c),
    "bottleneck autoencoder": lambda s, o, c: Reconstruction(_bottleneck, o, s, c),
    "the same with noise": lambda s, o, c: Reconstruction(_bottleneck, o, s, c, noise=0.2),
}
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "SGD": lambda p: SGD(p, lr=0.05),
    "SGD, momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "RMSprop": lambda p: RMSprop(p, lr=0.003),
    "several groups": _groups,
}
SCHEDULES: dict[str, Schedule | None] = {
    "none": None,
    "OneCycle, by step": OneCycle(),
    "cosine, by epoch": Cosine(),
    "plateau on val/loss": Plateau(patience=0),
}
PRECISIONS = dict.fromkeys(("32-true", "bf16-mixed", "64-true", "bf16-true"))
ACCUMULATIONS = dict.fromkeys(("1", "3", "4"))
"""An epoch has ten batches: neither 3 nor 4 divides it, so its last window is not full."""
CLIPPINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "by norm": {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "norm"},
    "by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
}
RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "3 epochs": lambda: {"max_epochs": 3},
    "early stopping": lambda: {
        "max_epochs": 6,
        "callbacks": [EarlyStopping("val/loss", patience=1, min_delta=0.1)],
    },
    "limit batches": lambda: {
        "max_epochs": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 1,
    },
    "limit by share": lambda: {"max_epochs": 2, "limit_train_batches": 0.35},
    "val every 2 epochs": lambda: {"max_epochs": 3, "check_val_every_n_epoch": 2},
    "val inside an epoch": lambda: {"max_epochs": 2, "val_check_interval": 0.25},
    "max_steps": lambda: {"max_epochs": 5, "max_steps": 7},
    "overfit one batch": lambda: {"max_epochs": 3, "overfit_batches": 1},
    "fast_dev_run": lambda: {"fast_dev_run": 2},
    "empty val": lambda: {"max_epochs": 2, "limit_val_batches": 0},
}
AVERAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "EMA of weights": lambda: {"callbacks": [EMAWeightAveraging(decay=0.9)]},
}
AXES: dict[str, Mapping[str, Any]] = {
    "model": MODELS,
    "optimiser": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "accumulation": ACCUMULATIONS,
    "clipping": CLIPPINGS,
    "loop": RUNS,
    "averaging": AVERAGES,
}
Cell = dict[str, str]
"""A value by its name for every axis."""
BASE: Cell = {axis: next(iter(values)) for axis, values in AXES.items()}


def cells() -> list[tuple[str, str]]:
    """Each value of each axis; with the others as in `BASE` it is a cell."""
    return [(axis, value) for axis, values in AXES.items() for value in values]


def combinations(count: int, seed: int = 0) -> list[Cell]:
    """A random sample of cells that can be run and are exact, the same for the same seed."""
    draw = random.Random(seed)
    found: list[Cell] = []
    while len(found) < count:
        cell = {axis: draw.choice(list(values)) for axis, values in AXES.items()}
        if refusal(cell) is None and inexact(cell) is None and cell not in found:
            found.append(cell)
    return found


def refusal(cell: Cell) -> str | None:
    """Why Lightning itself cannot run a cell, or None if it can."""
    if cell["schedule"] == "plateau on val/loss":
        if cell["loop"] == "empty val":
            return "ReduceLROnPlateau has no val/loss to look at"
        if cell["loop"] == "val every 2 epochs":
            return "ReduceLROnPlateau has no val/loss after the first epoch"
    return None


def inexact(cell: Cell) -> str | None:
    """Why the loops do not agree in a cell, or None if they do."""
    if cell["precision"] == "64-true" and cell["averaging"] != "none":
        return (
            "EMAWeightAveraging copies the model before it is converted, and exchanges weights "
            "with that copy to validate: Lightning's pass through float32"
        )
    return None


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


class Recorder(Checkpoint):
    """Keeps a Trainer's record. As a `Checkpoint` it comes after the task's own epoch end."""

    def __init__(self, record: Record) -> None:
        self.record = record

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

    follows = ("AccumulateCB", "MixedPrecisionCB", "MetricsCB")
    precedes = ("GradientClipCB", "ValidateCB")

    def __init__(self, record: Record) -> None:
        self.record = record

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


def record(
    loop: Loop, cell: Cell, data: ImageDataModule, *, seed: int = 0, accelerator: str = "cpu"
) -> Record:
    """Train a cell in one of the loops, from a start that depends on `seed` only."""
    torch.manual_seed(seed)
    task = MODELS[cell["model"]](
        data.spec, OPTIMIZERS[cell["optimiser"]], SCHEDULES[cell["schedule"]]
    )
    run, average = RUNS[cell["loop"]](), AVERAGES[cell["averaging"]]()
    flags = run | {"precision": cell["precision"], "accelerator": accelerator}
    flags |= {"accumulate_grad_batches": int(cell["accumulation"])} | CLIPPINGS[cell["clipping"]]
    flags["callbacks"] = [*run.get("callbacks", ()), *average.get("callbacks", ())]
    found = Record(start=_copied(task.state_dict()))
    train = {"lightning": _record_lightning, "homemade": _record_homemade}[loop]
    optimizer = train(task, data, flags, found)
    found.state = _copied(task.state_dict())
    found.optimizer = flat(optimizer.state_dict())
    return found


def _record_lightning(
    task: Task, data: ImageDataModule, flags: dict[str, Any], found: Record
) -> Optimizer:
    flags["callbacks"] = [*flags["callbacks"], Recorder(found)]
    off = ("logger", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(off, False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(many workers|LeafSpec)")
        trainer = Trainer(**flags, **quiet, num_sanity_val_steps=0)
        trainer.fit(task, datamodule=data)
    return trainer.optimizers[0]


def _record_homemade(
    task: Task, data: ImageDataModule, flags: dict[str, Any], found: Record
) -> Optimizer:
    learn = build_learner(task, data, flags, [RecorderCB(found)])
    learn.fit(learn.n_epochs, valid=False)
    optimizer: Optimizer = learn.opt
    return optimizer


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
        elif not torch.equal(a, b) and not (a.isnan() & b.isnan()).all():
            far = (a.double() - b.double()).abs().max()
            found.append(f"{what}: {name} differs by up to {far:.3g}")
    return found


def _gradient(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
    return {"gradient norm": torch.stack(norms).norm(), "learning rates": rates}


def _logged(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of epochs; what Lightning logs of a single step is in the record of steps."""
    return {
        name: torch.tensor(float(value), dtype=torch.float64)
        for name, value in metrics.items()
        if not name.endswith("_step")
    }


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def digits() -> ImageDataModule:
    """What the cells are trained on: ten batches of real digits an epoch, the last one shorter."""
    return ImageDataModule("digits", batch_size=150, augmentation=Augmentation(shift=1, flip=True))


ELSEWHERE = {
    "stop and go on": (
        "after SIGTERM in an epoch or at its end; by the same loop or the other (test_resume.py)"
    ),
    "processes": "2 over gloo: evenly divided, not evenly, accumulated (test_distributed.py)",
    "device": "CPU; a GPU has not been tried",
}
"""What takes signals, processes or another machine, and the test that shows it."""


def table(results: Mapping[tuple[str, str], str]) -> str:
    """The proof as a Markdown table: the values of each axis, and what is not exact of them."""
    lines = ["| axis | bit for bit the same in both loops |", "| --- | --- |"]
    for axis, values in AXES.items():
        found = [(value, results[axis, value]) for value in values]
        named = [value if result == "exact" else f"{value} ({result})" for value, result in found]
        lines.append(f"| {axis} | {'; '.join(named)} |")
    return "\n".join([*lines, *(f"| {axis} | {what} |" for axis, what in ELSEWHERE.items())])


def main(count: int = 12) -> int:
    """Train every cell and `count` combinations in both loops, and print what came out."""
    from rich.progress import track

    def verdict(cell: Cell) -> str:
        found = differences(*(record(loop, cell, digits()) for loop in LOOPS))
        return "exact" if not found else f"{len(found)} numbers differ, first {found[0]}"

    results = {
        (axis, value): verdict(BASE | {axis: value})
        for axis, value in track(cells(), "cells", transient=True)
    }
    sample = [verdict(cell) for cell in track(combinations(count), "combinations", transient=True)]
    print(table(results))
    print(f"\n{sample.count('exact')} of {count} random combinations of these values are exact.")
    return 0 if {*results.values(), *sample} == {"exact"} else 1
