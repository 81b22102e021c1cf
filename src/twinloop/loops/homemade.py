"""Train an experiment by the homemade Learner, as a Trainer with the same flags would.

The task, the data and the flags are those of an experiment file; `build_learner` makes the Learner
for them. A flag without a counterpart is refused by name, never ignored.
"""

import math
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.fabric.utilities.seed import reset_seed
from torch import Tensor

from twinloop.data.protocol import Data
from twinloop.data.resumable import Resumable
from twinloop.errors import UserError
from twinloop.learner import Callback, DataLoaders, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.limits import in_batches, limited
from twinloop.loops.checkpoint import CheckpointCodec
from twinloop.loops.checks import check_run, overridden_hooks
from twinloop.loops.counterparts import (
    counterparts,
    precision_callbacks,
    step_callbacks,
)
from twinloop.loops.flags import Flags
from twinloop.loops.optimizers import TaskOptimizers
from twinloop.loops.record import KeepRecordCB
from twinloop.loops.report import BoardCB, EpochProgressCB, KeepHistoryCB, ThroughputCB
from twinloop.loops.save import SaveBestCB, SaveCheckpointsCB
from twinloop.loops.stop import SaveAndStopCB
from twinloop.loops.task import BatchPrepCB, LearnerAsTrainer, TaskMetricsCB
from twinloop.loops.watch import WatchEpochsCB
from twinloop.processes import is_first, join, world_size
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.run import Run
from twinloop.tasks import Task


def train(
    task: Task,
    data: Data,
    flags: Mapping[str, Any],
    run: Run | None,
    resume: Path | None,
) -> None:
    """Train by a Learner; the arguments are those of `lightning.train`.

    The caller has called `check_task` and `check_run`.
    """
    filled = Flags.of({**flags, "logger": run.loggers if run else False})
    join(filled.device)
    if world_size() > 1 or filled["strategy"] == "ddp":
        reset_seed()  # as Lightning's ddp does: every process draws the same from here on
        if world_size() == 1:
            _set_num_threads_if_needed()  # as its launcher does: sums depend on the threads
    callbacks: list[Callback] = [cbs.FiniteLossCB(_rows_of)]
    if run:
        checkpoint = read_checkpoint(resume) if resume else None
        callbacks = learner_callbacks(run, task, data, filled, checkpoint)
        if run.timings:
            callbacks.append(cbs.TraceCB(run.timings.events, run.timings.times))
        if run.record:
            callbacks.append(KeepRecordCB(run.record))
    learn = _learner(task, data, filled, callbacks)
    try:
        learn.fit(learn.n_epochs, valid=False)
    finally:
        task.trainer, data.trainer.learn = None, None


def check_task(task: Task) -> None:
    """Refuse a task with hooks that the homemade loop does not call."""
    if not task.automatic_optimization:
        raise UserError(
            f"{type(task).__name__} uses manual optimisation (automatic_optimization is False), "
            "which the homemade loop has no counterpart for; pass --loop lightning"
        )
    if hooks := overridden_hooks(task):
        raise UserError(
            f"{type(task).__name__} overrides {', '.join(hooks)}, which the homemade loop does not "
            "call; override inputs_and_targets, loss, count or compute, or pass --loop lightning"
        )


def learner_callbacks(
    run: Run, task: Task, data: Data, flags: Flags, checkpoint: dict[str, Any] | None
) -> list[Callback]:
    """The callbacks that keep a Learner's run in its folder, resumed from a `checkpoint` if any."""
    codec = CheckpointCodec(task, data, flags["accumulate_grad_batches"])
    save = SaveCheckpointsCB(run.saver, codec)
    callbacks: list[Callback] = [
        *(codec, KeepHistoryCB(run.history), cbs.FiniteLossCB(_rows_of)),
        *(save, SaveBestCB(save), SaveAndStopCB(run.signals, save, codec)),
        ThroughputCB(run.history.throughput),
    ]
    if run.watch:
        callbacks.append(WatchEpochsCB(run.history, run.watch))
    if checkpoint:
        callbacks.append(cbs.ResumeCB(checkpoint, codec.unpack))
    if is_first():
        callbacks.append(EpochProgressCB(run.history, run.bar))
        callbacks.append(BoardCB(run, task, data))
    return callbacks


def build_learner(
    task: Task,
    data: Data,
    flags: Mapping[str, Any] | Flags,
    extra: Sequence[Callback] = (),
) -> Learner:
    """Make the Learner that trains `task` on `data` as `Trainer(**flags)` would.

    `learner.fit(learner.n_epochs, valid=False)` runs it: validation is a callback's, inside the
    training epoch as it is in Lightning. `extra` are further callbacks.

    Raises:
        UserError: a flag, or a method of the task, without a counterpart.
    """
    filled = flags if isinstance(flags, Flags) else Flags.of(flags)
    check_task(task)
    check_run(filled.values, task, data, world_size())
    return _learner(task, data, filled, extra)


def _learner(task: Task, data: Data, flags: Flags, extra: Sequence[Callback]) -> Learner:
    _prepare_device(data, flags)
    batches = limited(data.batches(world_size())["train"], flags["limit_train_batches"])
    # A LightningModule has only a weak reference to its Trainer; the Learner keeps it alive.
    trainer = LearnerAsTrainer(flags, _steps(flags, batches))
    task.trainer = data.trainer = trainer  # type: ignore[assignment]
    train, valid = data.train_dataloader(), data.val_dataloader()
    optimizers = TaskOptimizers(task)
    callbacks = [
        *_callbacks(task, data, flags, trainer, batches),
        *optimizers.scheduler_callbacks(),
        *(*counterparts(flags, task), *step_callbacks(flags), *extra),
    ]
    if flags.loggers:
        callbacks.append(cbs.LoggerCB(flags.loggers, flags["log_every_n_steps"]))
    loaders = DataLoaders(train, valid if limited(len(valid), flags["limit_val_batches"]) else ())
    learner = Learner(task, loaders, task.loss, optimizers.lr, callbacks, optimizers)
    trainer.learn = weakref.proxy(learner)
    learner.n_epochs = sys.maxsize if flags["max_epochs"] == -1 else flags["max_epochs"]
    return learner


def _callbacks(
    task: Task, data: Data, flags: Flags, trainer: LearnerAsTrainer, batches: int
) -> list[Callback]:
    """The callbacks of every run, whose epochs have `batches` batches of train."""
    interval = flags["val_check_interval"]
    if interval is not None:
        interval = max(1, in_batches(batches, interval))
    return [
        cbs.DeviceCB(data.device),
        BatchPrepCB(task, data, trainer),
        TaskMetricsCB(task),
        cbs.LimitBatchesCB(flags["limit_train_batches"], flags["limit_val_batches"]),
        cbs.ValidateCB(flags["check_val_every_n_epoch"], interval),
        *precision_callbacks(flags["precision"], data.device),
    ]


def _rows_of(loader: Resumable, number: int) -> Tensor | None:
    return loader.rows_of(number)


def _prepare_device(data: Data, flags: Flags) -> None:
    """Set the device of the batches, and deterministic algorithms."""
    data.device = flags.device
    if flags["deterministic"]:
        if data.device.type == "cuda":  # read by the first matrix multiplication
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=flags["deterministic"] == "warn")


def _steps(flags: Flags, batches: int) -> float:
    """Optimiser steps of a whole run with epochs of `batches`; infinite if it is unlimited."""
    epochs = math.inf if flags["max_epochs"] == -1 else flags["max_epochs"]
    steps: float = math.ceil(batches / flags["accumulate_grad_batches"]) * epochs
    limit: int = flags["max_steps"]
    return steps if limit == -1 else min(steps, limit)
