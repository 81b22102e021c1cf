"""Train an experiment by the homemade Learner, which does what the Trainer's flags ask for.

The task, the data and the flags are those of an experiment file; `build_learner` makes the Learner
that does with them what the Trainer would. A flag that has no counterpart is refused by name,
never ignored.
"""

import inspect
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
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
)
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, DataLoaders, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.limits import limited
from twinloop.loops.checkpoint import CheckpointCodec
from twinloop.loops.checks import check_run, overridden_hooks
from twinloop.loops.counterparts import (
    counterparts,
    precision_callbacks,
    scheduler_callback,
    step_callbacks,
)
from twinloop.loops.flags import Flags
from twinloop.loops.record import RecorderCB
from twinloop.loops.report import BoardCB, EpochProgressCB, KeepHistoryCB
from twinloop.loops.save import SaveBestCB, SaveCheckpointsCB
from twinloop.loops.stop import SaveAndStopCB
from twinloop.loops.task import BatchPrepCB, LearnerAsTrainer, TaskMetricsCB
from twinloop.processes import join, world_size
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.run import Run
from twinloop.tasks import Task


def train(
    task: Task,
    data: ImageDataModule,
    flags: Mapping[str, Any],
    run: Run | None,
    resume: Path | None,
) -> None:
    """Train `task` on `data` by the Learner that `build_learner` makes of the Trainer's flags.

    Args:
        task: What to train.
        data: What on.
        flags: The Trainer's.
        run: What to keep; None keeps nothing, as for `fast_dev_run`.
        resume: The checkpoint to resume from, if any.

    Raises:
        UserError: a flag, or a method of the task, that the Learner has no counterpart for.
    """
    wanted = Flags.of(flags)
    join(wanted.device)
    if world_size() > 1 or wanted["strategy"] == "ddp":
        reset_seed()  # as Lightning's ddp does: every process draws the same from here on
        if world_size() == 1:
            _set_num_threads_if_needed()  # as its launcher does: sums depend on the threads
    callbacks: list[Callback] = [cbs.FiniteLossCB(Batches.rows_of)]
    if run:
        checkpoint = read_checkpoint(resume) if resume else None
        callbacks = learner_callbacks(run, task, data, wanted, checkpoint)
        if run.timings:
            callbacks.append(cbs.TraceCB(run.timings.events, run.timings.times))
        if run.record:
            callbacks.append(RecorderCB(run.record))
    learn = build_learner(task, data, wanted, callbacks)
    try:
        learn.fit(learn.n_epochs, valid=False)
    finally:
        task.trainer = None


def learner_callbacks(
    run: Run, task: Task, data: ImageDataModule, flags: Flags, checkpoint: dict[str, Any] | None
) -> list[Callback]:
    """The callbacks that keep a Learner's run in the folder of `run`.

    With a `checkpoint` of either loop the run is resumed from there.
    """
    codec = CheckpointCodec(task, flags["accumulate_grad_batches"])
    save = SaveCheckpointsCB(run.saver, codec)
    callbacks: list[Callback] = [
        *(codec, KeepHistoryCB(run.history), cbs.FiniteLossCB(Batches.rows_of)),
        *(save, SaveBestCB(save), SaveAndStopCB(run.signals, save, codec)),
    ]
    if checkpoint:
        callbacks.append(cbs.ResumeCB(checkpoint, codec.unpack))
    if run.writer is not None:
        callbacks += [
            EpochProgressCB(run.history, run.bar),
            cbs.TensorBoardCB(run.writer, flags["log_every_n_steps"]),
            BoardCB(run.writer, task, data, run.saver.settings),
        ]
    return callbacks


def build_learner(
    task: Task,
    data: ImageDataModule,
    flags: Mapping[str, Any] | Flags,
    extra: Sequence[Callback] = (),
) -> Learner:
    """Make the Learner that trains `task` on `data` as `Trainer(**flags)` would.

    `learner.fit(learner.n_epochs, valid=False)` runs it: validation is a callback's, inside the
    training epoch as it is in Lightning.

    Args:
        task: What to train.
        data: What on.
        flags: The Trainer's.
        extra: Further callbacks: progress, TensorBoard, checkpoints.

    Raises:
        UserError: a flag, or a method of the task, that the Learner has no counterpart for.
    """
    wanted = flags if isinstance(flags, Flags) else Flags.of(flags)
    check_task(task)
    check_run(wanted.values, task, data, world_size())
    _prepare_device(data, wanted)
    train = data.train_batches(overfit=wanted["overfit_batches"] > 0)
    valid = data.val_dataloader()
    limits = {name: wanted[f"limit_{name}_batches"] for name in ("train", "val")}
    batches = limited(len(train), limits["train"])
    # A LightningModule keeps only a weak reference to what trains it; the Learner keeps it alive.
    trainer = LearnerAsTrainer(wanted, _steps(wanted, batches))
    task.trainer = trainer  # type: ignore[assignment]
    optimizers = TaskOptimizers(task)
    callbacks: list[Callback] = [
        cbs.DeviceCB(data.device),
        BatchPrepCB(task, data, trainer),
        TaskMetricsCB(task),
        cbs.LimitBatchesCB(**limits),
        cbs.ValidateCB(
            wanted["check_val_every_n_epoch"], _interval(wanted["val_check_interval"], batches)
        ),
        *precision_callbacks(wanted["precision"], data.device),
        *optimizers.scheduler_callbacks(),
        *counterparts(wanted),
        *step_callbacks(wanted),
        *extra,
    ]
    loaders = DataLoaders(train, valid if limited(len(valid), limits["val"]) else ())
    learner = Learner(task, loaders, task.loss, optimizers.lr, callbacks, optimizers)
    trainer.learn = weakref.proxy(learner)
    learner.n_epochs = sys.maxsize if wanted["max_epochs"] == -1 else wanted["max_epochs"]
    return learner


def _prepare_device(data: ImageDataModule, flags: Flags) -> None:
    """Bring the batches to the device of the flags, deterministic if they say so."""
    data.device = flags.device
    if flags["deterministic"]:
        if data.device.type == "cuda":  # read when the first matrix is multiplied there
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=flags["deterministic"] == "warn")


def _steps(flags: Flags, batches: int) -> float:
    """The optimiser's steps of a whole run with epochs of `batches`; infinite without an end."""
    epochs = math.inf if flags["max_epochs"] == -1 else flags["max_epochs"]
    steps: float = math.ceil(batches / flags["accumulate_grad_batches"]) * epochs
    limit: int = flags["max_steps"]
    return steps if limit == -1 else min(steps, limit)


def check_task(task: Task) -> None:
    """Refuse what a task does by hooks that the homemade loop does not call.

    Raises:
        UserError: names them.
    """
    advice = "override inputs_and_targets, loss, count or compute, or pass --loop lightning"
    if not task.automatic_optimization:
        raise UserError(
            f"{type(task).__name__} optimises by hand (automatic_optimization is False), which the "
            "homemade loop has no counterpart for; pass --loop lightning"
        )
    if hooks := overridden_hooks(task):
        raise UserError(
            f"{type(task).__name__} overrides {', '.join(hooks)}, which the homemade loop does not "
            f"call; {advice}"
        )


class TaskOptimizers:
    """Makes a task's optimiser for each fit of a Learner, and with it the scheduler of that fit.

    Args:
        task: Its `configure_optimizers` gives both.

    Raises:
        UserError: several optimisers or schedulers, or what the Learner does not do with one.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        optimizer, self.config = _optimizer_and_scheduler(task)
        self.lr = _peak(optimizer)

    def __call__(self, parameters: Any, lr: float) -> Optimizer:
        """Make an optimiser of the network's parameters at the rate `lr`.

        Raises:
            UserError: another rate than the task's own, where the task does not ask for one.
        """
        own = self.task.optimizer

        def at_rate(weights: Any) -> Optimizer:
            optimizer = own(weights)
            for group in optimizer.param_groups:
                group["lr"] = lr * (group["lr"] / self.lr)
            return optimizer

        try:
            if lr != self.lr:
                self.task.optimizer = at_rate
            optimizer, self.config = _optimizer_and_scheduler(self.task)
        finally:
            self.task.optimizer = own
        if lr != self.lr and _peak(optimizer) == self.lr:
            name = f"{type(self.task).__name__}.configure_optimizers"
            raise UserError(
                f"the Learner's rate is {lr:g}, but {name} does not use self.optimizer and gives "
                f"{self.lr:g}; change the rate there"
            )
        return optimizer

    def scheduler_callbacks(self) -> list[Callback]:
        """The callback that steps the scheduler of each fit, if the task has one."""
        if self.config is None:
            return []
        return [scheduler_callback(self.config, lambda _: self.config and self.config.scheduler)]


def _peak(optimizer: Optimizer) -> float:
    """The rate that a schedule was planned for."""
    group = optimizer.param_groups[0]
    peak: float = group.get("max_lr", group.get("initial_lr", group["lr"]))
    return peak


def _optimizer_and_scheduler(task: Task) -> tuple[Optimizer, LRSchedulerConfig | None]:
    """What `configure_optimizers` of the task gives, in any of the forms that Lightning takes.

    Raises:
        UserError: several optimisers or schedulers, or what the Learner does not do with one.
    """
    configured: Any = task.configure_optimizers()
    optimizers, schedulers, monitor = _configure_optimizers(configured)
    configs = _configure_schedulers_automatic_opt(schedulers, monitor)
    if len(optimizers) != 1 or len(configs) > 1:
        raise UserError(
            f"configure_optimizers gives {len(optimizers)} optimisers and {len(configs)} "
            "schedulers; the homemade loop has one of each; pass --loop lightning"
        )
    optimizer = optimizers[0]
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"model.optimizer: {type(optimizer).__name__} computes the loss several times a step "
            "by a closure, which the homemade loop has no counterpart for; pass --loop lightning"
        )
    config = configs[0] if configs else None
    if config and (
        config.frequency != 1 or (config.reduce_on_plateau and config.interval != "epoch")
    ):
        raise UserError(
            "configure_optimizers: the homemade loop steps a scheduler every step or every epoch, "
            "and one that watches a metric every epoch; pass --loop lightning"
        )
    return optimizer, config


def _interval(interval: float | None, batches: int) -> int | None:
    """`val_check_interval` in batches: a float is a share of the epoch."""
    if interval is None or isinstance(interval, int):
        return interval
    return max(1, int(batches * interval))
