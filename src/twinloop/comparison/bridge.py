"""From Lightning's words to the Learner's: one experiment, and whichever loop it should run on.

The task, the data and the Trainer's flags are those of an experiment file; `build_learner` makes
the Learner that does with them what the Trainer would. A flag that has no counterpart is refused
by name, never ignored.
"""

import inspect
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from torch import Tensor

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, DataLoaders, Learner
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.limits import limited
from twinloop.tasks import Task

HANDLED = (
    *("accelerator", "devices", "strategy", "precision", "deterministic"),
    *("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("overfit_batches", "fast_dev_run", "val_check_interval", "check_val_every_n_epoch"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("callbacks", "default_root_dir", "log_every_n_steps", "enable_progress_bar"),
    "detect_anomaly",
)
"""The Trainer's flags that the Learner has a counterpart for."""
WITHOUT_EFFECT = ("num_sanity_val_steps", "enable_model_summary", "inference_mode")
"""Flags that change nothing that a run computes."""
DTYPES = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}
TRAINER_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}


@dataclass(frozen=True)
class Flags:
    """The Trainer's flags, with its defaults and their meanings filled in.

    Raises:
        UserError: a flag that the Learner has no counterpart for.
    """

    given: Mapping[str, Any]
    values: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            known = name in (*HANDLED, *WITHOUT_EFFECT)
            if not known and value != TRAINER_DEFAULTS.get(name):
                raise UserError(
                    f"trainer.{name}: the homemade loop has no counterpart for it; unset it, or "
                    f"pass --loop lightning (counterparts: {', '.join(HANDLED)})"
                )
        values = TRAINER_DEFAULTS | dict(self.given)
        if values["fast_dev_run"]:
            few = int(values["fast_dev_run"])
            limits = dict.fromkeys(("limit_train_batches", "limit_val_batches", "max_steps"), few)
            values |= limits | {"max_epochs": 1, "val_check_interval": None}
            values |= {"check_val_every_n_epoch": 1, "overfit_batches": 0.0}
        if values["overfit_batches"]:
            few = values["overfit_batches"]
            values |= {"limit_train_batches": few, "limit_val_batches": few}
        if values["max_epochs"] is None:
            values["max_epochs"] = 1000 if values["max_steps"] == -1 else -1
        if values["check_val_every_n_epoch"] is None:
            raise UserError(
                "trainer.check_val_every_n_epoch is null, which the homemade loop has no "
                "counterpart for; set it to 1"
            )
        object.__setattr__(self, "values", values)
        # What cannot be is said before anything is made.
        _precision(self["precision"], self.device)
        _counterparts(self)
        _ = self.is_distributed

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def device(self) -> torch.device:
        """Where to train: a GPU where there is one and the flags allow it."""
        if self["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if self["accelerator"] not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator is {self['accelerator']!r}, and there is none")
        return torch.device("cpu")

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train together, which torchrun has started.

        Raises:
            UserError: devices or a strategy that torchrun has not started the processes for.
        """
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if self["devices"] not in ("auto", -1, "-1", 1, "1", processes, str(processes)):
            raise UserError(
                f"trainer.devices is {self['devices']}, and {processes} process runs; start the "
                f"homemade loop with torchrun --nproc_per_node {self['devices']} -m twinloop ..."
            )
        if self["strategy"] not in ("auto", "ddp"):
            raise UserError(f"trainer.strategy is {self['strategy']!r}; the homemade loop has ddp")
        return processes > 1


class TaskCB(Callback):
    """A batch of the data module as what goes into the network and what should come out."""

    follows = ("DeviceCB", "TruePrecisionCB")

    def __init__(self, task: Task, data: ImageDataModule) -> None:
        self.task, self.data = task, data

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
        UserError: a flag that the Learner has no counterpart for.
    """
    wanted = flags if isinstance(flags, Flags) else Flags(flags)
    if wanted["deterministic"]:
        torch.use_deterministic_algorithms(True)
    data.device = wanted.device
    train = data.train_batches(overfit=wanted["overfit_batches"] > 0)
    valid = data.val_dataloader()
    limits = {name: wanted[f"limit_{name}_batches"] for name in ("train", "val")}
    limits = {name: 1.0 if limit is None else limit for name, limit in limits.items()}
    batches = limited(len(train), limits["train"])
    epochs = wanted["max_epochs"]
    steps = math.ceil(batches / wanted["accumulate_grad_batches"]) * epochs
    if epochs == -1:
        steps = math.inf
    if wanted["max_steps"] != -1:
        steps = min(steps, wanted["max_steps"])

    # The scheduler belongs to its optimiser, and so is made together with it.
    optimizer, scheduler = task.optimizer_and_scheduler(steps, epochs)
    callbacks: list[Callback] = [
        cbs.DeviceCB(data.device),
        TaskCB(task, data),
        TaskMetricsCB(task),
        cbs.ShuffleCB(),
        cbs.LimitBatchesCB(**limits),
        cbs.ValidateCB(
            wanted["check_val_every_n_epoch"], _interval(wanted["val_check_interval"], batches)
        ),
        *_precision(wanted["precision"], data.device),
        *(_scheduler(scheduler) if scheduler else ()),
        *_counterparts(wanted),
        *extra,
    ]
    if wanted["accumulate_grad_batches"] > 1:
        callbacks.append(cbs.AccumulateCB(wanted["accumulate_grad_batches"]))
    if wanted["gradient_clip_val"]:
        algorithm = wanted["gradient_clip_algorithm"] or "norm"
        callbacks.append(cbs.GradientClipCB(wanted["gradient_clip_val"], str(algorithm)))
    if wanted["max_steps"] != -1:
        callbacks.append(cbs.LimitStepsCB(wanted["max_steps"]))
    if wanted["detect_anomaly"]:
        callbacks.append(cbs.AnomalyCB())
    if wanted.is_distributed:
        callbacks.append(cbs.DistributedCB())
    learner = Learner(
        task,
        DataLoaders(train, valid if limited(len(valid), limits["val"]) else ()),
        loss_func=task.loss,
        cbs=callbacks,
    )
    learner.opt = optimizer
    learner.n_epochs = sys.maxsize if epochs == -1 else epochs
    return learner


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
    if bits not in DTYPES:
        raise UserError(f"trainer.precision is {precision!r}, which the homemade loop has not")
    # Without a kind Lightning takes 64 for true and the others for mixed.
    if kind == "true" or (bits == "64" and not kind):
        return [cbs.TrainCB(), cbs.TruePrecisionCB(DTYPES[bits])]
    if bits == "16" and device.type == "cpu":
        raise UserError("trainer.precision is 16-mixed, which needs a GPU; bf16-mixed does not")
    return [cbs.MixedPrecisionCB(DTYPES[bits], device.type)]


def _scheduler(config: Mapping[str, Any]) -> list[Callback]:
    """A scheduler that Lightning would step, as the callback that steps it."""
    scheduler = config["scheduler"]
    if "monitor" in config:
        return [cbs.PlateauSchedCB(lambda _: scheduler, config["monitor"])]
    kind = {"step": cbs.BatchSchedCB, "epoch": cbs.EpochSchedCB}[config["interval"]]
    return [kind(lambda _: scheduler)]


def _counterparts(flags: Flags) -> list[Callback]:
    """The Learner's callbacks for those of an experiment file; a short run is never stopped."""
    given: Sequence[LightningCallback] | LightningCallback = flags["callbacks"] or ()
    found: list[Callback] = []
    for callback in given if isinstance(given, Sequence) else [given]:
        if isinstance(callback, EarlyStopping):
            stop = cbs.EarlyStoppingCB(
                callback.monitor, callback.mode, callback.patience, abs(callback.min_delta)
            )
            found += [] if flags["fast_dev_run"] else [stop]
        elif isinstance(callback, EMAWeightAveraging):
            found.append(cbs.AverageCB(callback._kwargs["avg_fn"]))
        else:
            raise UserError(
                f"trainer.callbacks: the homemade loop has no counterpart for "
                f"{type(callback).__name__}; it has those of EarlyStopping and EMAWeightAveraging"
            )
    return found
