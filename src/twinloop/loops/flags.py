"""The Trainer's flags for the Learner: those with a counterpart, with defaults filled in."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import Logger

from twinloop.errors import UserError, as_user_error
from twinloop.learner import Callback
from twinloop.learner.callback import VERBS, sort_callbacks
from twinloop.loops.checks import OURS, callbacks_of, check_flags
from twinloop.loops.observe import missing_hooks
from twinloop.processes import local_rank, world_size

HANDLED = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic"),
    *("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("overfit_batches", "fast_dev_run", "val_check_interval", "check_val_every_n_epoch"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("callbacks", "default_root_dir", "logger", "log_every_n_steps", "enable_progress_bar"),
    "detect_anomaly",
)
"""The Trainer's flags with a counterpart in the homemade loop."""
SWITCHED_OFF = ("num_sanity_val_steps", "enable_model_summary")
"""Flags without a counterpart that may be set to false."""
WITHOUT_EFFECT = ("inference_mode",)
"""Flags that have no effect on a fit."""
TRAINER_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}


@dataclass(frozen=True)
class Flags:
    """The Trainer's flags, with defaults filled in and those that follow from others resolved."""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Flags":
        """Check the `given` flags, and fill in the others.

        Raises:
            UserError: an invalid flag, or one without a counterpart.
        """
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
                f"trainer.precision is {self['precision']!r}; the homemade loop has no counterpart"
            )
        if self["devices"] not in ("auto", -1, "-1", 1, "1") and world_size() == 1:
            raise UserError(
                f"trainer.devices is {self['devices']}, but one process runs; start the homemade "
                f"loop with torchrun --nproc_per_node {self['devices']} -m twinloop ..."
            )
        if self["num_nodes"] != 1 and world_size() == 1:
            raise UserError(
                f"trainer.num_nodes is {self['num_nodes']}, but one process runs; start the "
                f"homemade loop with torchrun --nnodes {self['num_nodes']} -m twinloop ..."
            )
        if self["strategy"] not in ("auto", "ddp"):
            raise UserError(
                f"trainer.strategy is {self['strategy']!r}; the homemade loop has only ddp"
            )
        check_callbacks(self.values)
        device = self.device
        for callback in callbacks_of(self.values):
            if isinstance(callback, LightningCallback) and type(callback) in COUNTERPARTS:
                _check_options(callback, device)

    @property
    def loggers(self) -> list[Logger]:
        """The loggers; true and None stand for the one that a run has, and here for none."""
        given = self["logger"]
        if isinstance(given, bool | None):
            return []
        return list(given) if isinstance(given, Iterable) else [given]

    @property
    def device(self) -> torch.device:
        """The device to train on: an NVIDIA GPU if there is one and the flags allow it.

        Raises:
            UserError: the flags allow no such GPU and no CPU, or Lightning trains on Apple's GPU.
        """
        accelerator = self["accelerator"]
        if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            return torch.device("cuda", local_rank())
        if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
            raise UserError(
                f"trainer.accelerator is {accelerator!r}, which is Apple's GPU on this machine; "
                "the homemade loop has no counterpart; set it to cpu"
            )
        if accelerator not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator is {accelerator!r}; none was found")
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
"""Lightning's callbacks with a counterpart in the homemade loop, and their handled options."""


def check_callbacks(flags: Mapping[str, Any]) -> None:
    """Refuse a callback without a counterpart, and one of the Learner's that it cannot call."""
    for callback in callbacks_of(flags):
        name = type(callback).__name__
        if isinstance(callback, Callback):
            with as_user_error("trainer.callbacks"):
                sort_callbacks(callback)
            if verbs := [verb for verb in VERBS if hasattr(callback, verb)]:
                raise UserError(
                    f"trainer.callbacks: {name} implements {verbs[0]!r}, as TrainCB does"
                )
        elif type(callback) not in COUNTERPARTS and (hooks := missing_hooks(callback)):
            known = " and ".join(kind.__name__ for kind in COUNTERPARTS)
            raise UserError(
                f"trainer.callbacks: the homemade loop has no counterpart for {name} (its "
                f"{', '.join(hooks)}); it has counterparts for {known}"
            )


def _check_options(callback: LightningCallback, device: torch.device) -> None:
    """Refuse an option without a counterpart in a run on `device`."""
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
    """An option of a callback, which is an attribute of the same name, for some with underscore."""
    return getattr(callback, name) if hasattr(callback, name) else getattr(callback, f"_{name}")
