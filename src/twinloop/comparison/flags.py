"""The Trainer's flags: what no loop can do with them, and what they are for the Learner.

`check_run` refuses for both loops, in the same words, what Lightning would refuse later or not at
all. `Flags` refuses by name what only Lightning has.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner.callbacks.limits import limited
from twinloop.processes import local_rank, world_size
from twinloop.tasks import Task

HANDLED = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic"),
    *("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("overfit_batches", "fast_dev_run", "val_check_interval", "check_val_every_n_epoch"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("callbacks", "default_root_dir", "log_every_n_steps", "enable_progress_bar"),
    "detect_anomaly",
)
"""The Trainer's flags that the Learner has a counterpart for."""
SWITCHED_OFF = ("num_sanity_val_steps", "enable_model_summary")
"""Flags for what the homemade loop does not do, and that may say so."""
WITHOUT_EFFECT = ("inference_mode",)
"""Flags that change nothing in a fit."""
OURS: dict[str, tuple[tuple[bool | None, ...], str]] = {
    "logger": ((None, True), "every run logs to TensorBoard in its own folder"),
    "barebones": (
        (False,),
        "a run leaves checkpoints, logs and results; `make bench` times a bare Trainer",
    ),
    "enable_checkpointing": ((None, True), "every run keeps its last and its best checkpoint"),
}
"""Flags for what the project does itself: what they may be, and why nothing else."""
HOOK_NAMES = (
    *("on_", "optimizer_", "lr_scheduler_", "training_step", "validation_step", "backward"),
    *("configure_", "transfer_", "setup", "prepare_data", "teardown"),
)
"""How the methods begin by which a LightningModule may change a fit."""
CALLED_BY_BOTH = {"configure_optimizers", "on_save_checkpoint", "on_load_checkpoint"}
"""Hooks that either loop calls."""
NOT_ZERO = {
    "max_epochs": "train",
    "max_steps": "train",
    "limit_train_batches": "train",
    "limit_test_batches": "report",
}
"""Flags that leave nothing to do where they are 0, and what."""
LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
"""The least that a flag can be, where Lightning does not look."""
TRAINER_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}


def check_flags(given: Mapping[str, Any]) -> None:
    """Refuse the flags that neither loop can have.

    Raises:
        UserError: the first of them, and what to do.
    """
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
    if given.get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval is 0; it must be more")
    on_cpu = given.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    if str(given.get("precision")) in ("16", "16-mixed") and on_cpu:
        raise UserError("trainer.precision is 16-mixed, which needs a GPU; bf16-mixed does not")
    for callback in callbacks_of(given):
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                "trainer.callbacks: StochasticWeightAveraging makes its average after the last "
                "checkpoint and validation; use EMAWeightAveraging, whose average is validated "
                "and saved"
            )
        if isinstance(callback, LearningRateFinder):
            raise UserError(
                "trainer.callbacks: LearningRateFinder sets an attribute lr of the task, and a "
                "task's rate is its optimizer's; search with twinloop.learner.callbacks.lr_find, "
                "and set model.optimizer.lr"
            )


def check_run(
    trainer: Mapping[str, Any], task: Task, data: ImageDataModule, processes: int = 1
) -> None:
    """Refuse what cannot be with this task and this data, before the first step.

    Args:
        trainer: The flags, those that are not given by their defaults.
        task: What to train.
        data: What on.
        processes: How many train together, and share the images.

    Raises:
        UserError: a limit that leaves no batch, a validation that never comes, a metric that is
            never measured.
    """
    sizes = {
        name: math.ceil(size / processes / data.batch_size) for name, size in data.sizes.items()
    }
    batches = _limited("train", sizes["train"], trainer)
    validates = _limited("val", sizes["val"], trainer) > 0
    _limited("test", sizes["test"], trainer)
    if trainer["fast_dev_run"]:
        return  # Lightning then validates once, whatever else is asked for
    interval, every_n_epochs = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    if validates and every_n_epochs is not None and type(interval) is int and interval > batches:
        raise UserError(
            f"trainer.val_check_interval is {interval}, and an epoch has {batches} batches; lower "
            "it, or set trainer.check_val_every_n_epoch to null to count the batches of all epochs"
        )
    # What a task of one's own logs by itself is not known here.
    if overridden_hooks(task):
        return
    first = _first_validation(trainer, batches) if validates else math.inf
    watched = getattr(task.schedule, "monitor", None)
    if watched and watched.startswith("val/") and first > 0:
        raise UserError(
            f"model.schedule watches {watched} from the first epoch on, which is not validated; "
            "see trainer.check_val_every_n_epoch, trainer.limit_val_batches and data.val_size"
        )
    known = task.metric_names("train") + (task.metric_names("val") if validates else [])
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and callback.strict:
            _check_monitor(
                callback, known, first, at_epoch_end=checks_at_epoch_end(callback, trainer)
            )


def _first_validation(trainer: Mapping[str, Any], batches: int) -> float:
    """The epoch, counted from 0, that has the first validation; infinite where max_steps ends."""
    interval, every_n_epochs = trainer["val_check_interval"], trainer["check_val_every_n_epoch"]
    if isinstance(interval, float):
        interval = max(1, int(batches * interval))
    # The batch, counted from 1 over all epochs, after which it comes.
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
    """Whether EarlyStopping checks at an epoch's end, and not after each validation."""
    asked = callback._check_on_train_epoch_end
    if asked is not None:
        return asked
    return trainer["val_check_interval"] in (None, 1.0) and trainer["check_val_every_n_epoch"] == 1


def _check_monitor(
    callback: EarlyStopping, known: list[str], first: float, *, at_epoch_end: bool
) -> None:
    """Refuse a metric that is not there at the first check.

    Raises:
        UserError: names it.
    """
    name = f"trainer.callbacks: EarlyStopping watches {callback.monitor!r}, which is not"
    if callback.monitor not in known:
        raise UserError(f"{name} measured; there are: {', '.join(known)}")
    of_val = callback.monitor.startswith("val/")
    if (of_val and at_epoch_end and first > 0) or not (of_val or at_epoch_end or first > 0):
        when = "the end of the first epoch" if at_epoch_end else "the first validation"
        raise UserError(
            f"{name} measured yet at {when}, where it is checked; set check_on_train_epoch_end "
            f"to {str(not at_epoch_end).lower()}, or strict to false"
        )


def _limited(stage: str, size: int, trainer: Mapping[str, Any]) -> int:
    """How many of `size` batches a pass goes through; none only where it is meant."""
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


def callbacks_of(flags: Mapping[str, Any]) -> Sequence[LightningCallback]:
    """The callbacks among the flags, which may be a list, one, or none."""
    given = flags.get("callbacks") or ()
    return given if isinstance(given, Sequence) else [given]


HOOKS = tuple(
    name
    for kind in (ModelHooks, CheckpointHooks, DataHooks, LightningModule)
    for name, value in vars(kind).items()
    if inspect.isfunction(value) and name.startswith(HOOK_NAMES)
)
"""The methods of a LightningModule by which it may change how a Trainer trains it."""


def overridden_hooks(task: Task) -> list[str]:
    """The hooks of `task` itself that only a Trainer calls, by name."""
    found = {
        name
        for name in HOOKS
        if name in vars(task) or getattr(type(task), name) is not getattr(Task, name)
    }
    return sorted(found - CALLED_BY_BOTH)


@dataclass(frozen=True)
class Flags:
    """The Trainer's flags for the Learner, with its defaults and their meanings filled in.

    Raises:
        UserError: a flag that the Learner has no counterpart for.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Flags":
        """Fill in what is not `given`."""
        check_flags(given)
        for name, value in given.items():
            known = name in (*HANDLED, *WITHOUT_EFFECT, *OURS)
            known |= name in SWITCHED_OFF and not value
            if not known and value != TRAINER_DEFAULTS.get(name):
                raise UserError(
                    f"trainer.{name}: the homemade loop has no counterpart for it; unset it, or "
                    f"pass --loop lightning (counterparts: {', '.join(HANDLED)})"
                )
        values = TRAINER_DEFAULTS | dict(given)
        if values["fast_dev_run"]:
            few = int(values["fast_dev_run"])
            limits = dict.fromkeys(("limit_train_batches", "limit_val_batches", "max_steps"), few)
            values |= limits | {"max_epochs": 1, "val_check_interval": 1.0}
            values |= {"check_val_every_n_epoch": 1, "overfit_batches": 0.0}
        if values["overfit_batches"]:
            few = values["overfit_batches"]
            values |= {"limit_train_batches": few, "limit_val_batches": few}
        for name in ("limit_train_batches", "limit_val_batches"):
            values[name] = 1.0 if values[name] is None else values[name]
        if values["max_epochs"] is None:
            values["max_epochs"] = 1000 if values["max_steps"] == -1 else -1
        flags = cls(values)
        flags._check()
        return flags

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def _check(self) -> None:
        if not isinstance(self["val_check_interval"], int | float | None):
            raise UserError(
                "trainer.val_check_interval is a time, which the homemade loop has no counterpart "
                "for; give a number of batches or a share of the epoch, or pass --loop lightning"
            )
        bits, _, kind = str(self["precision"] or "32-true").partition("-")
        if bits not in ("64", "32", "bf16", "16") or kind not in ("", "true", "mixed"):
            raise UserError(
                f"trainer.precision is {self['precision']!r}, which the homemade loop has not"
            )
        if self["devices"] not in ("auto", -1, "-1", 1, "1") and world_size() == 1:
            raise UserError(
                f"trainer.devices is {self['devices']}, and one process runs; start the homemade "
                f"loop with torchrun --nproc_per_node {self['devices']} -m twinloop ..."
            )
        if self["num_nodes"] != 1 and world_size() == 1:
            raise UserError(
                f"trainer.num_nodes is {self['num_nodes']}, and one process runs; start the "
                f"homemade loop with torchrun --nnodes {self['num_nodes']} -m twinloop ..."
            )
        if self["strategy"] not in ("auto", "ddp"):
            raise UserError(f"trainer.strategy is {self['strategy']!r}; the homemade loop has ddp")
        check_callbacks(self.values)
        for callback in callbacks_of(self.values):
            _check_options(callback, self.device)

    @property
    def device(self) -> torch.device:
        """Where to train: a GPU where there is one and the flags allow it."""
        if self["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return torch.device("cuda", local_rank())
        if self["accelerator"] not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator is {self['accelerator']!r}, and there is none")
        return torch.device("cpu")


COUNTERPARTS: dict[type[LightningCallback], tuple[str, ...]] = {
    EarlyStopping: (
        *("monitor", "min_delta", "patience", "mode", "strict", "check_finite"),
        *("stopping_threshold", "divergence_threshold", "check_on_train_epoch_end"),
    ),
    EMAWeightAveraging: (
        *("use_buffers", "decay", "update_every_n_steps", "update_starting_at_step"),
        "update_starting_at_epoch",
    ),
}
"""Lightning's callbacks that the Learner has a counterpart for, and which of their options."""


def check_callbacks(flags: Mapping[str, Any]) -> None:
    """Refuse a callback that the Learner has no counterpart for.

    Raises:
        UserError: names it.
    """
    for callback in callbacks_of(flags):
        if type(callback) not in COUNTERPARTS:
            known = " and ".join(kind.__name__ for kind in COUNTERPARTS)
            raise UserError(
                f"trainer.callbacks: the homemade loop has no counterpart for "
                f"{type(callback).__name__}; it has those of {known}"
            )


def _check_options(callback: LightningCallback, device: torch.device) -> None:
    """Refuse an option of a callback that has no counterpart in a run on `device`.

    Raises:
        UserError: names it.
    """
    options = COUNTERPARTS[type(callback)]
    for name, parameter in inspect.signature(type(callback)).parameters.items():
        if name in options or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        value = _option(callback, name)
        here = name == "device" and value is not None and torch.device(value) == device
        if value != parameter.default and not here:
            raise UserError(
                f"trainer.callbacks: the homemade loop has no counterpart for {name} of "
                f"{type(callback).__name__}; unset it, or pass --loop lightning"
            )
    if isinstance(callback, EMAWeightAveraging):
        more = {name for name, value in callback._kwargs.items() if value is not None} - {"avg_fn"}
        if more:
            raise UserError(
                "trainer.callbacks: the homemade loop has no counterpart for "
                f"{', '.join(sorted(more))} of EMAWeightAveraging; unset it, or pass --loop "
                "lightning"
            )


def _option(callback: LightningCallback, name: str) -> Any:
    """What a callback was made with, which it keeps under its name, some with an underscore."""
    return getattr(callback, name) if hasattr(callback, name) else getattr(callback, f"_{name}")
