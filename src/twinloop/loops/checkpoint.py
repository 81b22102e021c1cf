"""A Learner's checkpoint in Lightning's form, so that either loop goes on from the other's."""

import math
from copy import deepcopy
from functools import cache
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from twinloop.learner import Callback, Learner, Order
from twinloop.learner import callbacks as cbs
from twinloop.learner.callbacks.schedule import SchedCB
from twinloop.tasks import Task


class RandomState(LightningCallback):
    """Saves torch's generators with a checkpoint, which Lightning does not.

    Dropout and noise draw from them, so without it a resumed run would differ from one that was
    never stopped. A validation that is left begins again, and so do its draws.
    """

    def __init__(self) -> None:
        self.before_validation: dict[str, Any] | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what validation begins with."""
        self.before_validation = self.state_dict()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a checkpoint has validation behind it."""
        self.before_validation = None

    def state_dict(self) -> dict[str, Any]:
        """The generator of the CPU and those of all GPUs."""
        return self.before_validation or {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw on from where the checkpoint was saved."""
        torch.set_rng_state(state_dict["cpu"])
        torch.cuda.set_rng_state_all(state_dict["cuda"])


class CheckpointCodec(Callback):
    """Packs a Learner as Lightning packs a Trainer, and unpacks either's checkpoint.

    It counts the batches of validation, which Lightning's checkpoint has and the Learner does not,
    and keeps the random state that a validation begins with: one that was left begins again.

    Args:
        task: The LightningModule that the Learner trains.
        accumulate: Batches to a step.
    """

    order = Order.PREPARE

    def __init__(self, task: Task, accumulate: int = 1) -> None:
        self.task = task
        self.accumulate = accumulate
        self.validated = self.validated_last = 0
        self.validating_from: dict[str, Any] | None = None
        self.in_epoch = False  # whether the next pass of train continues one of a checkpoint

    def before_epoch(self, learn: Learner) -> None:
        """Count anew, but for the rest of an epoch that is resumed."""
        if learn.training:
            if not self.in_epoch:
                self.validated = 0
            self.in_epoch = False
        else:
            self.validated_last = 0
            self.validating_from = RandomState().state_dict()

    def after_epoch(self, learn: Learner) -> None:
        """From here on a checkpoint has validation behind it, if it was not left."""
        if not learn.training:
            self.validating_from = None

    def after_batch(self, learn: Learner) -> None:
        """Count a batch of validation."""
        if not learn.training:
            self.validated += 1
            self.validated_last += 1

    def pack(self, learn: Learner, *, completed: bool = False) -> dict[str, Any]:
        """The checkpoint that a Trainer would save where `learn` is now.

        Lightning counts a batch of train as `completed` once its callbacks are done, so in a
        checkpoint of the validation that comes after it, and not in one of the batch itself.
        """
        at_end = learn.num == learn.n_batches or learn.stopping
        checkpoint: dict[str, Any] = {
            "epoch": learn.epoch,
            "global_step": learn.steps,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": self.task.state_dict(),
            "loops": self._loops(learn, at_end, completed),
            "callbacks": {"RandomState": self.validating_from or RandomState().state_dict()},
            "optimizer_states": [learn.opt.state_dict()],
            "ImageDataModule": {"train": learn.dls.train.state_dict()},
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
        """Put `checkpoint` back into `learn`, and return the batch of the epoch to begin with."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        in_epoch = epochs["processed"] < epochs["ready"]
        learn.epoch, learn.steps = epochs["processed"], checkpoint["global_step"]
        weights = checkpoint.get("current_model_state", checkpoint["state_dict"])
        self.task.load_state_dict(weights)
        learn.opt.load_state_dict(checkpoint["optimizer_states"][0])
        schedulers = [cb for cb in learn.cbs if isinstance(cb, SchedCB)]
        for scheduler, state in zip(schedulers, checkpoint["lr_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        for cb in learn.cbs:
            _unpack_callback(cb, checkpoint)
        learn.dls.train.position = checkpoint["ImageDataModule"]["train"]["position"]
        self.task.on_load_checkpoint(checkpoint)
        self.in_epoch = in_epoch
        validated = loop["epoch_loop.val_loop.batch_progress"]
        validation = validated["current"]
        self.validated = validated["total"]["processed"]
        self.validated_last = validation["processed"]
        for cb in learn.cbs:
            if isinstance(cb, cbs.ValidateCB):
                cb.left = in_epoch and validation["processed"] < validation["started"]
        RandomState().load_state_dict(checkpoint["callbacks"]["RandomState"])
        return int(loop["epoch_loop.batch_progress"]["current"]["ready"]) if in_epoch else 0

    def _loops(self, learn: Learner, at_end: bool, completed: bool) -> dict[str, Any]:
        """The counters of Lightning's loops, after an epoch's last batch or inside an epoch."""
        done = learn.epoch + at_end
        batches = learn.num + (not at_end)  # inside an epoch this batch counts as processed
        completed = completed or at_end or self.validating_from is not None
        earlier = learn.epoch * math.ceil(learn.n_batches / self.accumulate)
        steps = {
            "total": _counted(learn.steps, learn.steps),
            "current": _counted(learn.steps - earlier, learn.steps - earlier),
        }
        total = learn.epoch * learn.n_batches + batches
        # Inside a window of accumulated batches gradients were zeroed for a step still to come.
        left = batches % self.accumulate > 0 and batches < learn.n_batches
        zeroed = {
            name: _counted(count["ready"] + left, count["completed"] + left)
            for name, count in steps.items()
        }
        fit = {
            "state_dict": {"combined_loader": [learn.dls.train.state_dict()]},
            "epoch_loop.state_dict": {
                "_batches_that_stepped": learn.steps if at_end or left else learn.steps - 1
            },
            "epoch_loop.batch_progress": {
                "total": _counted(total, total - (not completed), processed=total),
                "current": _counted(batches, batches - (not completed), processed=batches),
                "is_last_batch": batches == learn.n_batches,
            },
            "epoch_loop.scheduler_progress": self._scheduled(learn, at_end, steps),
            "epoch_loop.automatic_optimization.optim_progress": {
                "optimizer": {
                    "step": steps,
                    "zero_grad": {
                        name: count | {"started": count["ready"]} for name, count in zeroed.items()
                    },
                }
            },
            "epoch_loop.val_loop.batch_progress": self._validated(),
            "epoch_progress": {
                name: _counted(learn.epoch + 1, learn.epoch, processed=done)
                for name in ("total", "current")
            },
        }
        loops = deepcopy(_idle_loops())
        loops["fit_loop"] |= fit
        return loops

    def _validated(self) -> dict[str, Any]:
        """The counters of validation; one that was left looks like left in its first batch."""
        total, current, left = self.validated, self.validated_last, False
        if self.validating_from:
            total, current, left = total - current, 0, True
        return {
            "total": _counted(total + left, total, processed=total),
            "current": _counted(current + left, current, processed=current),
            "is_last_batch": current > 0,
        }

    def _scheduled(
        self, learn: Learner, at_end: bool, steps: dict[str, dict[str, int]]
    ) -> dict[str, dict[str, int]]:
        """How often the scheduler was stepped: by the step, by the epoch, or after a checkpoint."""
        if any(isinstance(cb, cbs.BatchSchedCB) for cb in learn.cbs):
            return steps
        total = current = 0
        if any(isinstance(cb, cbs.EpochSchedCB) for cb in learn.cbs):
            current = int(at_end and learn.num == learn.n_batches)
            total = learn.epoch + current
        elif any(isinstance(cb, cbs.PlateauSchedCB) for cb in learn.cbs):
            total = learn.epoch
        return {"total": _counted(total, total), "current": _counted(current, current)}


def _pack_callback(cb: Callback, checkpoint: dict[str, Any]) -> None:
    """Add what a callback's counterpart would have added."""
    states = checkpoint["callbacks"]
    if isinstance(cb, cbs.EarlyStoppingCB):
        states[_early_stopping_key(cb)] = cb.state_dict()
    elif isinstance(cb, cbs.AverageCB):
        mean = cb.state_dict()
        states["EMAWeightAveraging"] = {"latest_update_step": mean["latest_update_step"]}
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        named = mean["average"].items()
        checkpoint["state_dict"] = {
            name.removeprefix("module."): value
            for name, value in named
            if name.startswith("module.")
        }
        checkpoint["averaging_state"] = {
            name: value for name, value in named if not name.startswith("module.")
        }
    elif isinstance(cb, cbs.MixedPrecisionCB):
        if cb.scaler:
            checkpoint["MixedPrecision"] = cb.state_dict()
    elif not isinstance(cb, SchedCB) and (state := cb.state_dict()):
        states[type(cb).__name__.removesuffix("CB")] = state


def _unpack_callback(cb: Callback, checkpoint: dict[str, Any]) -> None:
    """Take back what the callback or its counterpart has added."""
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
    elif not isinstance(cb, SchedCB):
        name = type(cb).__name__.removesuffix("CB")
        if name in states:
            cb.load_state_dict(states[name])


@cache
def _idle_loops() -> dict[str, Any]:
    """What a Trainer has before it has begun, for the counters that a fit leaves alone."""
    idle = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[],
    )
    return {
        name: getattr(idle, name).state_dict()
        for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    }


def _counted(ready: int, completed: int, processed: int | None = None) -> dict[str, int]:
    """Lightning's names for how far something has come; all that is ready was started too."""
    count = {"ready": ready, "completed": completed}
    return count if processed is None else count | {"started": ready, "processed": processed}


def _early_stopping_key(cb: cbs.EarlyStoppingCB) -> str:
    return EarlyStopping(cb.monitor, mode=cb.mode).state_key
