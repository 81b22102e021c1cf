"""The proof: one factory, both loops, and every number that they leave, compared bit for bit.

A cell of the table is an experiment: a model, an optimiser, a schedule, a precision and so on.
`record` trains it in either loop, `differences` says where two records differ, and
`python -m twinloop parity` prints the table.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from twinloop.comparison.bridge import build_learner
from twinloop.comparison.record import Record, Recorder, RecorderCB, differences
from twinloop.data.augment import Augmentation
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.spec import DataSpec
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
    if loop == "lightning":
        return _record_lightning(task, data, flags)
    return _record_homemade(task, data, flags)


def _record_lightning(task: Task, data: ImageDataModule, flags: dict[str, Any]) -> Record:
    found = Record()
    flags["callbacks"] = [*flags["callbacks"], Recorder(found)]
    off = ("logger", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(off, False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(many workers|LeafSpec)")
        Trainer(**flags, **quiet, num_sanity_val_steps=0).fit(task, datamodule=data)
    return found


def _record_homemade(task: Task, data: ImageDataModule, flags: dict[str, Any]) -> Record:
    found = Record()
    learn = build_learner(task, data, flags, [RecorderCB(found)])
    learn.fit(learn.n_epochs, valid=False)
    return found


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
