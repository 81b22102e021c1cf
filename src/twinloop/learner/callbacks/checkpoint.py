"""Checkpoints: saving them, and resuming from them."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinloop.files import save_whole
from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.distributed import unwrapped
from twinloop.learner.callbacks.metrics import monitored
from twinloop.learner.learner import Learner


class CheckpointCB(Callback):
    """Saves `last.ckpt` after every epoch, and `best.ckpt` when `monitor` is the best so far.

    The best of all fits: a second one keeps the file if it is no better. A fit that only validates
    saves nothing. Lightning: `ModelCheckpoint`. Of several processes only one should have this
    callback.

    Args:
        folder: The folder of both files.
        monitor: The metric that decides, such as 'val/accuracy'; with None there is no best.
        mode: 'min' or 'max': which value of the metric is better.
        pack: Makes the contents of a checkpoint.

    Raises:
        ValueError: another mode.
    """

    order = Order.SAVE

    def __init__(
        self,
        folder: Path | str,
        monitor: str | None = "val/loss",
        mode: str = "min",
        pack: Callable[[Learner], dict[str, Any]] | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; it must be 'min' or 'max'")
        self.folder, self.monitor, self.mode = Path(folder), monitor, mode
        self.pack = pack or pack_state
        self.opt_needs = () if pack else ("state_dict",)
        self.best: Tensor | None = None

    @property
    def best_path(self) -> Path:
        """The file of the best epoch."""
        return self.folder / "best.ckpt"

    @property
    def last_path(self) -> Path:
        """The file of the last epoch."""
        return self.folder / "last.ckpt"

    def before_fit(self, learn: Learner) -> None:
        """Create the folder, and so find out before the first step that it cannot be."""
        if True in learn.passes:
            self.folder.mkdir(parents=True, exist_ok=True)

    def after_epoch(self, learn: Learner) -> None:
        if not learn.ends_epoch or True not in learn.passes:
            return
        value = monitored(learn, self, self.monitor).detach().cpu() if self.monitor else None
        if value is not None and is_best(value, self.best, self.mode):
            self.best = value
            self.save(learn, self.best_path)
        self.save(learn, self.last_path)

    def save(self, learn: Learner, path: Path) -> None:
        """Write a checkpoint of the Learner's present state atomically."""
        save_whole(self.pack(learn), path)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state.get("best")


def is_best(value: Tensor, best: Tensor | None, mode: str) -> bool:
    """Whether a value of a metric is better than the `best` before it; NaN never is."""
    if best is None or value.isnan():
        return not value.isnan()
    return bool(value < best if mode == "min" else value > best)


class ResumeCB(Callback):
    """Resumes from a checkpoint, in the first fit only; Lightning: `ckpt_path`.

    Args:
        checkpoint: What `CheckpointCB` has saved.
        unpack: Restores it in a Learner, and returns the batch of the epoch to begin with.

    Raises:
        TypeError: a path in place of its contents.
    """

    order = Order.RESUME

    def __init__(
        self,
        checkpoint: dict[str, Any],
        unpack: Callable[[Learner, dict[str, Any]], int] | None = None,
    ) -> None:
        if not isinstance(checkpoint, dict):
            raise TypeError(
                f"checkpoint is {str(checkpoint)!r}; it must be the contents of such a file: "
                f"torch.load({str(checkpoint)!r})"
            )
        self.checkpoint: dict[str, Any] | None = checkpoint
        self.unpack = unpack or unpack_state
        self.first_batch = 0

    def before_fit(self, learn: Learner) -> None:
        """Restore, unless this is a later fit, whose weights are further already."""
        if self.checkpoint is not None:
            self.first_batch = self.unpack(learn, self.checkpoint)
            self.checkpoint = None

    def before_epoch(self, learn: Learner) -> None:
        """Skip the batches that were trained on before the checkpoint."""
        if learn.training:
            learn.num, self.first_batch = self.first_batch, 0


def pack_state(learn: Learner) -> dict[str, Any]:
    """Everything between two epochs that decides how the run continues."""
    return {
        "epoch": learn.epoch + 1,
        "steps": learn.steps,
        "before": (learn.past, learn.began),
        "model": unwrapped(learn.model).state_dict(),
        "opt": learn.opt.state_dict(),
        "callbacks": {key: state for key, cb in _keyed(learn) if (state := cb.state_dict())},
        "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
    }


def unpack_state(learn: Learner, checkpoint: dict[str, Any]) -> int:
    """Restore what `pack_state` has packed, and return the batch to begin with."""
    learn.epoch, learn.steps = checkpoint["epoch"], checkpoint["steps"]
    learn.past, learn.began = checkpoint.get("before", (0, 0))
    unwrapped(learn.model).load_state_dict(checkpoint["model"])
    learn.opt.load_state_dict(checkpoint["opt"])
    for key, cb in _keyed(learn):
        if key in checkpoint["callbacks"]:
            cb.load_state_dict(checkpoint["callbacks"][key])
    cpu, *gpus = checkpoint["random"]
    torch.set_rng_state(cpu)
    torch.cuda.set_rng_state_all(gpus)
    return 0


def _keyed(learn: Learner) -> Iterator[tuple[str, Callback]]:
    """Each callback with the name of its class, numbered if it is not the first of that class."""
    seen: Counter[str] = Counter()
    for cb in learn.cbs:
        name = type(cb).__name__
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} {seen[name]}", cb
