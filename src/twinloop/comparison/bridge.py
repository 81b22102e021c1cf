"""From Lightning's words to the Learner's: one experiment, and whichever loop it should run on.

The task, the data and the Trainer's flags are those of an experiment file; `build_learner` makes
the Learner that does with them what the Trainer would. A flag that has no counterpart is refused
by name, never ignored.
"""

import inspect
import math
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
)
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from twinloop.comparison.flags import (
    Flags,
    callbacks_of,
    check_run,
    checks_at_epoch_end,
    overridden_hooks,
)
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, DataLoaders, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.limits import limited
from twinloop.processes import world_size
from twinloop.tasks import Task

DTYPES = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}


class LearnerAsTrainer:
    """What a task may ask of `self.trainer` while the Learner trains it.

    Args:
        flags: The Trainer's.
        steps: The optimiser's steps of the whole run, infinite where it has no end.
    """

    sanity_checking = False
    state = TrainerState(fn=TrainerFn.FITTING)

    def __init__(self, flags: Flags, steps: float) -> None:
        self.learn: Learner | None = None
        self.max_epochs, self.max_steps = flags["max_epochs"], flags["max_steps"]
        self.log_every_n_steps = flags["log_every_n_steps"]
        self.estimated_stepping_batches = steps

    @property
    def current_epoch(self) -> int:
        """The epoch, counted from 0."""
        return self.learn.epoch if self.learn else 0

    @property
    def global_step(self) -> int:
        """The optimiser's steps so far."""
        return self.learn.steps if self.learn else 0

    @property
    def training(self) -> bool:
        """Whether this pass goes through train."""
        return self.learn is not None and self.learn.training

    @property
    def validating(self) -> bool:
        """Whether this pass goes through val."""
        return not self.training

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks whether there is a method, for a copy say
            raise AttributeError(name)
        raise UserError(
            f"the task asks for trainer.{name}, which the homemade loop has not; pass --loop "
            "lightning, or let a method of Task do it (inputs_and_targets, loss, count, compute)"
        )


class TaskCB(Callback):
    """A batch of the data module as what goes into the network and what should come out."""

    order = cbs.TruePrecisionCB.order + 1

    def __init__(self, task: Task, data: ImageDataModule, trainer: LearnerAsTrainer) -> None:
        self.task, self.data, self.trainer = task, data, trainer

    def before_batch(self, learn: Learner) -> None:
        """Floats from bytes; noise, where the task has any."""
        images = self.data.on_after_batch_transfer(learn.batch, 0)
        learn.batch = self.task.inputs_and_targets(images)


class TaskMetricsCB(cbs.MetricsCB):
    """The metrics that the task has, in place of metrics of the callback's own."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def before_fit(self, learn: Learner) -> None:
        """Bring the metrics to where the weights are."""
        super().before_fit(learn)
        self.task.to(next(self.task.network.parameters()).device)

    def reset(self, stage: str) -> None:
        """Nothing: the task forgets when it computes, and an epoch may go on in its middle."""

    def update(self, learn: Learner) -> None:
        """Count the batch that the Learner has now."""
        self.task.count(learn.stage, learn.preds, learn.batch[1], learn.loss)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `stage` by name."""
        return self.task.compute(stage)


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
    data.device = wanted.device
    if wanted["deterministic"]:
        if data.device.type == "cuda":  # read when the first matrix is multiplied there
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=wanted["deterministic"] == "warn")
    train = data.train_batches(overfit=wanted["overfit_batches"] > 0)
    valid = data.val_dataloader()
    limits = {name: wanted[f"limit_{name}_batches"] for name in ("train", "val")}
    batches = limited(len(train), limits["train"])
    epochs = wanted["max_epochs"]
    steps = math.ceil(batches / wanted["accumulate_grad_batches"]) * epochs
    if epochs == -1:
        steps = math.inf
    if wanted["max_steps"] != -1:
        steps = min(steps, wanted["max_steps"])

    # A LightningModule keeps only a weak reference to what trains it; the Learner keeps it alive.
    trainer = LearnerAsTrainer(wanted, steps)
    task.trainer = trainer  # type: ignore[assignment]
    # The scheduler belongs to its optimiser, and so is made together with it.
    optimizer, scheduler = _optimizer_and_scheduler(task)
    callbacks: list[Callback] = [
        cbs.DeviceCB(data.device),
        TaskCB(task, data, trainer),
        TaskMetricsCB(task),
        cbs.ShuffleCB(),
        cbs.LimitBatchesCB(**limits),
        cbs.ValidateCB(
            wanted["check_val_every_n_epoch"], _interval(wanted["val_check_interval"], batches)
        ),
        *_precision(wanted["precision"], data.device),
        *([_scheduler_callback(scheduler)] if scheduler else []),
        *_counterparts(wanted),
        *_limits_of_steps(wanted),
        *extra,
    ]
    learner = Learner(
        task,
        DataLoaders(train, valid if limited(len(valid), limits["val"]) else ()),
        loss_func=task.loss,
        cbs=callbacks,
    )
    trainer.learn = weakref.proxy(learner)
    learner.opt = optimizer
    learner.n_epochs = sys.maxsize if epochs == -1 else epochs
    return learner


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
    if config and (config.frequency != 1 or (config.reduce_on_plateau and not _by_epoch(config))):
        raise UserError(
            "configure_optimizers: the homemade loop steps a scheduler every step or every epoch, "
            "and one that watches a metric every epoch; pass --loop lightning"
        )
    return optimizer, config


def _by_epoch(config: LRSchedulerConfig) -> bool:
    return config.interval == "epoch"


def _interval(interval: float | None, batches: int) -> int | None:
    """`val_check_interval` in batches: a float is a share of the epoch."""
    if interval is None or isinstance(interval, int):
        return interval
    return max(1, int(batches * interval))


def _precision(precision: str | int | None, device: torch.device) -> list[Callback]:
    """Who does the five verbs, in which types."""
    bits, _, kind = str(precision or "32-true").partition("-")
    if bits == "32":
        return [cbs.TrainCB()]
    # Without a kind Lightning takes 64 for true and the others for mixed.
    if kind == "true" or (bits == "64" and not kind):
        return [cbs.TrainCB(), cbs.TruePrecisionCB(DTYPES[bits])]
    return [cbs.MixedPrecisionCB(DTYPES[bits], device.type)]


def _scheduler_callback(config: LRSchedulerConfig) -> Callback:
    """A scheduler that Lightning would step, as the callback that steps it."""
    scheduler: Any = config.scheduler
    if config.reduce_on_plateau:
        return cbs.PlateauSchedCB(lambda _: scheduler, str(config.monitor))
    kind = cbs.EpochSchedCB if _by_epoch(config) else cbs.BatchSchedCB
    return kind(lambda _: scheduler)


def _counterparts(flags: Flags) -> list[Callback]:
    """The Learner's callbacks for those of an experiment file; a short run is never stopped."""
    found: list[Callback] = []
    for callback in callbacks_of(flags.values):
        if isinstance(callback, EarlyStopping) and not flags["fast_dev_run"]:
            found.append(
                cbs.EarlyStoppingCB(
                    callback.monitor,
                    callback.mode,
                    callback.patience,
                    abs(callback.min_delta),
                    strict=callback.strict,
                    check_finite=callback.check_finite,
                    stopping_threshold=callback.stopping_threshold,
                    divergence_threshold=callback.divergence_threshold,
                    when="epoch" if checks_at_epoch_end(callback, flags.values) else "validation",
                )
            )
        elif isinstance(callback, EMAWeightAveraging):
            found.append(
                cbs.AverageCB(
                    callback._kwargs["avg_fn"],
                    use_buffers=callback._use_buffers,
                    should_update=callback.should_update,
                )
            )
    return found


def _limits_of_steps(flags: Flags) -> list[Callback]:
    """The callbacks for flags about steps: how many batches, how large, how many, in how many."""
    found: list[Callback] = []
    if flags["accumulate_grad_batches"] > 1:
        found.append(cbs.AccumulateCB(flags["accumulate_grad_batches"]))
    if flags["gradient_clip_val"]:
        algorithm = flags["gradient_clip_algorithm"] or "norm"
        found.append(cbs.GradientClipCB(flags["gradient_clip_val"], str(algorithm)))
    if flags["max_steps"] != -1:
        found.append(cbs.LimitStepsCB(flags["max_steps"]))
    if flags["detect_anomaly"]:
        found.append(cbs.AnomalyCB())
    if world_size() > 1:
        found.append(cbs.DistributedCB())
    return found
