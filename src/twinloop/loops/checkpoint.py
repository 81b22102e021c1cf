"""A Learner's checkpoint in Lightning's format, so that each loop resumes from the other's."""

from typing import Any

import lightning
import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from twinloop.data.protocol import Data
from twinloop.learner import Callback, Learner, Order
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.schedule import SchedCB
from twinloop.loops.counters import Validated, loop_counters
from twinloop.tasks import Task


class RandomState(LightningCallback):
    """Saves the state of torch's generators in a checkpoint, which Lightning does not.

    Dropout and noise draw from them, so a resumed run would otherwise differ from an uninterrupted
    one. An interrupted validation is repeated, so its checkpoint has the state before it.
    """

    def __init__(self) -> None:
        self.before_validation: dict[str, Any] | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation = self.state_dict()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation = None

    def state_dict(self) -> dict[str, Any]:
        """The generator of the CPU and those of all GPUs."""
        return self.before_validation or {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.set_rng_state(state_dict["cpu"])
        torch.cuda.set_rng_state_all(state_dict["cuda"])


class CheckpointCodec(Callback):
    """Packs a Learner into the checkpoint of a Trainer, and unpacks the checkpoint of either.

    It counts the batches of validation, which are in Lightning's checkpoint and which the Learner
    does not count, and keeps the random state from which an interrupted validation is repeated.

    Args:
        task: The LightningModule that the Learner trains.
        data: Its data.
        accumulate: Batches per optimiser step.
    """

    order = Order.PREPARE

    def __init__(self, task: Task, data: Data, accumulate: int = 1) -> None:
        self.task, self.data = task, data
        self.accumulate = accumulate
        self.validated = Validated()
        self.validating_from: dict[str, Any] | None = None
        self.in_epoch = False  # whether the next pass of train continues an epoch

    def before_epoch(self, learn: Learner) -> None:
        """Reset the counts, except in the rest of an epoch that is resumed."""
        if learn.training:
            if not self.in_epoch:
                self.validated.total = 0
            self.in_epoch = False
        else:
            self.validated.current = 0
            self.validating_from = RandomState().state_dict()

    def after_epoch(self, learn: Learner) -> None:
        """Forget the random state of a validation that was completed."""
        if not learn.training:
            self.validating_from = None

    def after_batch(self, learn: Learner) -> None:
        if not learn.training:
            self.validated.total += 1
            self.validated.current += 1

    def pack(self, learn: Learner, *, completed: bool = False) -> dict[str, Any]:
        """The checkpoint that a Trainer would save where `learn` is now.

        Args:
            learn: The Learner.
            completed: Whether its last batch counts as completed: see `twinloop.loops.counters`.
        """
        loops = loop_counters(
            learn,
            self.validated,
            self.accumulate,
            completed=completed,
            interrupted=self.validating_from is not None,
        )
        checkpoint: dict[str, Any] = {
            "epoch": learn.epoch,
            "global_step": learn.steps,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": self.task.state_dict(),
            "loops": loops,
            "callbacks": {"RandomState": self.validating_from or RandomState().state_dict()},
            "optimizer_states": [learn.opt.state_dict()],
            type(self.data).__qualname__: self.data.state_dict(),
            "lr_schedulers": [cb.state_dict() for cb in learn.cbs if isinstance(cb, SchedCB)],
        }
        for cb in learn.cbs:
            _pack_callback(cb, checkpoint)
        if self.task.hparams:
            checkpoint[self.task.CHECKPOINT_HYPER_PARAMS_NAME] = self.task._hparams_name
            checkpoint[self.task.CHECKPOINT_HYPER_PARAMS_KEY] = dict(self.task.hparams)
        self.task.on_save_checkpoint(checkpoint)
        return checkpoint

    def unpack(self, learn: Learner, checkpoint: dict[str, Any]) -> int:
        """Restore `learn` from a checkpoint, and return the batch of the epoch to begin with."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        self.in_epoch = epochs["processed"] < epochs["ready"]
        learn.epoch, learn.steps = epochs["processed"], checkpoint["global_step"]
        self.task.load_state_dict(checkpoint.get("current_model_state", checkpoint["state_dict"]))
        learn.opt.load_state_dict(checkpoint["optimizer_states"][0])
        schedulers = [cb for cb in learn.cbs if isinstance(cb, SchedCB)]
        for scheduler, state in zip(schedulers, checkpoint["lr_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        for cb in learn.cbs:
            _unpack_callback(cb, checkpoint)
        self.data.expect(checkpoint[type(self.data).__qualname__])
        self.task.on_load_checkpoint(checkpoint)
        validated = loop["epoch_loop.val_loop.batch_progress"]
        current = validated["current"]
        self.validated = Validated(validated["total"]["processed"], current["processed"])
        for cb in learn.cbs:
            if isinstance(cb, cbs.ValidateCB):
                cb.left = self.in_epoch and current["processed"] < current["started"]
        RandomState().load_state_dict(checkpoint["callbacks"]["RandomState"])
        batches = loop["epoch_loop.batch_progress"]["current"]
        return int(batches["ready"]) if self.in_epoch else 0


def _pack_callback(cb: Callback, checkpoint: dict[str, Any]) -> None:
    """Add the state that the counterpart of a callback would have added."""
    states = checkpoint["callbacks"]
    if isinstance(cb, cbs.EarlyStoppingCB):
        states[_early_stopping_key(cb)] = cb.state_dict()
    elif isinstance(cb, cbs.AverageCB):
        mean = cb.state_dict()
        states["EMAWeightAveraging"] = {"latest_update_step": mean["latest_update_step"]}
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"], checkpoint["averaging_state"] = {}, {}
        for name, value in mean["average"].items():
            part = "state_dict" if name.startswith("module.") else "averaging_state"
            checkpoint[part][name.removeprefix("module.")] = value
    elif isinstance(cb, cbs.MixedPrecisionCB):
        if cb.scaler:
            checkpoint["MixedPrecision"] = cb.state_dict()
    elif not isinstance(cb, SchedCB) and (state := cb.state_dict()):
        states[_state_key(cb)] = state


def _unpack_callback(cb: Callback, checkpoint: dict[str, Any]) -> None:
    """Restore the state that a callback or its counterpart has added."""
    states = checkpoint["callbacks"]
    if isinstance(cb, cbs.EarlyStoppingCB):
        cb.load_state_dict(states[_early_stopping_key(cb)])
    elif isinstance(cb, cbs.AverageCB):
        mean = {f"module.{name}": value for name, value in checkpoint["state_dict"].items()}
        cb.load_state_dict(
            states["EMAWeightAveraging"] | {"average": mean | checkpoint["averaging_state"]}
        )
    elif isinstance(cb, cbs.MixedPrecisionCB):
        cb.load_state_dict(checkpoint.get("MixedPrecision", {}))
    elif not isinstance(cb, SchedCB) and _state_key(cb) in states:
        cb.load_state_dict(states[_state_key(cb)])


def _state_key(cb: Callback) -> str:
    """Lightning's key of the state, if it has one, or the name of the Trainer's counterpart."""
    return str(getattr(cb, "state_key", type(cb).__name__.removesuffix("CB")))


def _early_stopping_key(cb: cbs.EarlyStoppingCB) -> str:
    return EarlyStopping(cb.monitor, mode=cb.mode).state_key
