"""Refuse invalid flags and settings before the first step, with the same errors in both loops."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    StochasticWeightAveraging,
)
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks

from twinloop.data.protocol import Data
from twinloop.errors import UserError, as_user_error
from twinloop.learner import Callback
from twinloop.learner.callbacks.limits import in_batches, limited
from twinloop.tasks import Task
from twinloop.tasks.optimizer import Parameters, check_optimizer

OURS: dict[str, tuple[tuple[bool | None, ...], str]] = {
    "barebones": (
        (False,),
        "a run leaves checkpoints, logs and results; `make bench` times a bare Trainer",
    ),
    "enable_checkpointing": ((None, True), "every run keeps its last and its best checkpoint"),
}
"""Flags that a run cannot change: the allowed values, and the reason."""
NOT_ZERO = {
    "max_epochs": "train",
    "max_steps": "train",
    "limit_train_batches": "train",
    "limit_test_batches": "report",
}
"""Flags that leave nothing to do if they are 0, and the verb for it."""
LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
"""The least value of flags that Lightning does not check."""
HOOK_NAMES = (
    *("on_", "optimizer_", "lr_scheduler_", "training_step", "validation_step", "backward"),
    *("configure_", "transfer_", "setup", "prepare_data", "teardown"),
)
"""The prefixes of methods by which a LightningModule may change a fit."""
CALLED_BY_BOTH = {"configure_optimizers", "on_save_checkpoint", "on_load_checkpoint"}
"""Hooks that both loops call."""


def check_flags(given: Mapping[str, Any]) -> None:
    """Refuse flags that neither loop accepts."""
    for name, (allowed, why) in OURS.items():
        if given.get(name, allowed[0]) not in allowed:
            raise UserError(f"trainer.{name} cannot be set, since {why}; unset it")
    for name, verb in NOT_ZERO.items():
        if given.get(name) == 0:
            raise UserError(f"trainer.{name} is 0, so there is nothing to {verb}; raise it")
    for name, least in LEAST.items():
        value = given.get(name)
        if isinstance(value, int | float) and value < least:
            raise UserError(f"trainer.{name} is {value}; it must be at least {least}")
    overfit = given.get("overfit_batches")
    if isinstance(overfit, float) and overfit > 1:  # Lightning would train on every batch
        raise UserError(
            f"trainer.overfit_batches is {overfit}; give an integer number of batches, or a share "
            "up to 1.0"
        )
    if given.get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval is 0; it must be greater than 0")
    on_cpu = given.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    if str(given.get("precision")) in ("16", "16-mixed") and on_cpu:
        raise UserError("trainer.precision is 16-mixed, which needs a GPU; bf16-mixed does not")
    for callback in callbacks_of(given):
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                "trainer.callbacks: StochasticWeightAveraging computes its average after the last "
                "checkpoint and validation; use EMAWeightAveraging, whose average is validated "
                "and saved"
            )


def check_run(trainer: Mapping[str, Any], task: Task, data: Data, processes: int = 1) -> None:
    """Refuse flags that are invalid for this task and this data, shared by `processes`.

    `trainer` has all flags, with the Trainer's defaults.

    Raises:
        UserError: an optimiser that neither loop steps, a limit that leaves no batch, a validation
            that never runs, or a monitored metric that is never measured.
    """
    _check_optimizer(trainer, task)
    if any(isinstance(callback, BackboneFinetuning) for callback in callbacks_of(trainer)):
        _check_backbone(task)
    sizes = data.batches(processes)
    batches = _limited("train", sizes["train"], trainer)
    validates = _limited("val", sizes["val"], trainer) > 0
    _limited("test", sizes["test"], trainer)
    if trainer["fast_dev_run"]:
        return  # Lightning then validates once, whatever the other flags are
    interval, every_n_epochs = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    known = isinstance(interval, int | float) and every_n_epochs is not None
    if validates and known and in_batches(batches, interval) > batches:
        raise UserError(
            f"trainer.val_check_interval is {interval}, and an epoch has {batches} batches; lower "
            "it, or set trainer.check_val_every_n_epoch to null to count the batches of all epochs"
        )
    # A user's task may log metrics of its own.
    if not overridden_hooks(task):
        _check_monitors(trainer, task, batches, validates=validates)


def _check_optimizer(trainer: Mapping[str, Any], task: Task) -> None:
    """Refuse the optimiser of the settings, if the task itself does not make or step another."""
    is_own = type(task).configure_optimizers is not Task.configure_optimizers
    if is_own or not task.automatic_optimization:
        return
    with as_user_error("model.optimizer"):
        optimizer = task.optimizer(Parameters(task.network))
    modules = [type(callback).__module__ for callback in callbacks_of(trainer)]
    own = [name for name in modules if not name.startswith(("lightning.", "twinloop."))]
    check_optimizer(optimizer, exchanged=bool(own or overridden_hooks(task)))


def _check_backbone(task: Task) -> None:
    """Refuse BackboneFinetuning without a backbone, or with a schedule."""
    if not list(task.backbone.parameters()):
        raise UserError(
            f"trainer.callbacks: BackboneFinetuning: {type(task.network).__name__} has no weights "
            "before its last layer; give it an attribute `backbone`, or override that of the task"
        )
    if task.schedule:
        raise UserError(
            "trainer.callbacks: BackboneFinetuning adds a group of parameters, which a schedule "
            "does not allow; set model.schedule to null"
        )


def _check_monitors(
    trainer: Mapping[str, Any], task: Task, batches: int, *, validates: bool
) -> None:
    """Refuse a schedule or EarlyStopping whose metric is not measured before it is first read."""
    first = _first_validation(trainer, batches) if validates else math.inf
    known = task.metric_names("train") + (task.metric_names("val") if validates else [])
    if task.schedule and (watched := task.schedule.monitor):
        every = task.schedule.frequency
        if watched.startswith("val/") and first > every - 1:
            epochs = (
                "epoch, and the first is" if every == 1 else f"{every} epochs, and the first are"
            )
            raise UserError(
                f"model.schedule reads {watched} after every {epochs} not validated; change "
                "trainer.check_val_every_n_epoch, trainer.limit_val_batches or data.val_size"
            )
        if watched not in known:
            raise UserError(
                f"model.schedule reads {watched!r}, which is not measured; the metrics are: "
                f"{', '.join(known)}"
            )
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and callback.strict:
            _check_monitor(
                callback, known, first, at_epoch_end=checks_at_epoch_end(callback, trainer)
            )


def _first_validation(trainer: Mapping[str, Any], batches: int) -> float:
    """The epoch, from 0, of the first validation; infinite if max_steps ends the run before it."""
    interval, every_n_epochs = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    if isinstance(interval, float):
        interval = max(1, in_batches(batches, interval))
    # The batch before it, counted from 1 over all epochs.
    position = interval if isinstance(interval, int) else batches
    if every_n_epochs is not None:
        position += (every_n_epochs - 1) * batches
    epochs, steps = divmod(
        trainer["max_steps"], math.ceil(batches / trainer["accumulate_grad_batches"])
    )
    last = epochs * batches + min(steps * trainer["accumulate_grad_batches"], batches)
    if trainer["max_steps"] != -1 and position > last:
        return math.inf
    return math.ceil(position / batches) - 1


def checks_at_epoch_end(callback: EarlyStopping, trainer: Mapping[str, Any]) -> bool:
    """Whether EarlyStopping checks at the end of an epoch, in place of after each validation."""
    at_epoch_end = callback._check_on_train_epoch_end
    if at_epoch_end is not None:
        return at_epoch_end
    return trainer["val_check_interval"] in (None, 1.0) and trainer["check_val_every_n_epoch"] == 1


def _check_monitor(
    callback: EarlyStopping, known: list[str], first: float, *, at_epoch_end: bool
) -> None:
    """Refuse a metric that is not measured before the first check."""
    name = f"trainer.callbacks: EarlyStopping monitors {callback.monitor!r}, which is not"
    if callback.monitor not in known:
        raise UserError(f"{name} measured; the metrics are: {', '.join(known)}")
    of_val = callback.monitor.startswith("val/")
    if (of_val and at_epoch_end and first > 0) or not (of_val or at_epoch_end or first > 0):
        when = "the end of the first epoch" if at_epoch_end else "the first validation"
        raise UserError(
            f"{name} measured yet at {when}, where it is checked; set check_on_train_epoch_end "
            f"to {str(not at_epoch_end).lower()}, or strict to false"
        )


def _limited(stage: str, size: int, trainer: Mapping[str, Any]) -> int:
    """How many of `size` batches a pass goes through; refuse a share that leaves none."""
    name = f"limit_{stage}_batches"
    if stage != "test" and trainer["overfit_batches"]:
        name = "overfit_batches"
    limit = trainer[name]
    if trainer["fast_dev_run"]:
        limit = int(trainer["fast_dev_run"])
    limit = 1.0 if limit is None else limit
    batches = limited(size, limit)
    if size and limit and not batches:
        raise UserError(
            f"trainer.{name} is {limit}, and {limit} of {size} batches is less than one; raise it"
        )
    return batches


def callbacks_of(flags: Mapping[str, Any]) -> Sequence[LightningCallback | Callback]:
    """The callbacks of the flags, of either loop: a list of them, one, or None."""
    given = flags.get("callbacks") or ()
    return given if isinstance(given, Sequence) else [given]


HOOKS = tuple(
    name
    for kind in (ModelHooks, CheckpointHooks, DataHooks, LightningModule)
    for name, value in vars(kind).items()
    if inspect.isfunction(value) and name.startswith(HOOK_NAMES)
)
"""The methods by which a LightningModule may change a fit."""


def overridden_hooks(task: Task) -> list[str]:
    """The hooks that `task` overrides and that only a Trainer calls, by name."""
    found = {
        name
        for name in HOOKS
        if name in vars(task) or getattr(type(task), name) is not getattr(Task, name)
    }
    return sorted(found - CALLED_BY_BOTH)
