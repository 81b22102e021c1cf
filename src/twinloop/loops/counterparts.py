"""The Learner's callbacks for the Trainer's flags and callbacks."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from twinloop.learner import Callback
from twinloop.learner import callbacks as cbs
from twinloop.loops.checks import callbacks_of, checks_at_epoch_end
from twinloop.loops.flags import Flags
from twinloop.loops.observe import ObserveEpochEndCB, ObserverCB
from twinloop.processes import world_size
from twinloop.tasks import Task

DTYPES = {"64": torch.float64, "bf16": torch.bfloat16, "16": torch.float16}


def precision_callbacks(precision: str | int | None, device: torch.device) -> list[Callback]:
    """The callbacks that implement the five verbs in this precision."""
    bits, _, kind = str(precision or "32-true").partition("-")
    if bits == "32":
        return [cbs.TrainCB()]
    # Without a kind, Lightning reads 64 as true and the others as mixed.
    if kind == "true" or (bits == "64" and not kind):
        return [cbs.TrainCB(), cbs.TruePrecisionCB(DTYPES[bits])]
    return [cbs.MixedPrecisionCB(DTYPES[bits], device.type)]


def scheduler_callback(
    config: LRSchedulerConfig, sched_func: Callable[[Optimizer], Any]
) -> Callback:
    """The callback that steps the scheduler that `sched_func` gives for each fit."""
    if config.reduce_on_plateau:
        return cbs.PlateauSchedCB(sched_func, str(config.monitor), config.frequency)
    kind = cbs.EpochSchedCB if config.interval == "epoch" else cbs.BatchSchedCB
    return kind(sched_func, config.frequency)


def counterparts(flags: Flags, task: Task) -> list[Callback]:
    """The Learner's callbacks, and those for Lightning's; `fast_dev_run` has no early stopping."""
    found: list[Callback] = []
    for callback in callbacks_of(flags.values):
        if isinstance(callback, Callback):
            found.append(callback)
        elif isinstance(callback, EarlyStopping):
            if flags["fast_dev_run"]:
                continue
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
        else:
            observer = ObserverCB(callback, task)
            found += [ObserveEpochEndCB(observer), observer]
    return found


def step_callbacks(flags: Flags) -> list[Callback]:
    """The callbacks for flags about steps: accumulation, clipping, limits, processes."""
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
