"""What Lightning's finders find: applied, and kept for a run that is resumed."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from twinloop.data.protocol import Data
from twinloop.loops.checks import callbacks_of
from twinloop.tasks import Task

FINDERS = (BatchSizeFinder, LearningRateFinder)


def has_finder(flags: Mapping[str, Any]) -> bool:
    """Whether the flags have one."""
    return any(isinstance(callback, FINDERS) for callback in callbacks_of(flags))


def without_finders(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run that is resumed: a search would replace its checkpoint by the finder's."""
    kept = [callback for callback in callbacks_of(flags) if not isinstance(callback, FINDERS)]
    return {**flags, "callbacks": kept}


class Found(Callback):
    """Makes optimiser and schedule anew for what the finders have found.

    Args:
        task: Its `lr` is what a LearningRateFinder sets.
        data: Its `batch_size` is what a BatchSizeFinder sets.
        resumed: Whether the run has both from its checkpoint.
    """

    def __init__(self, task: Task, data: Data, *, resumed: bool) -> None:
        self.task, self.data, self.resumed = task, data, resumed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the finders: they search in the same hook, and the user's callbacks come first."""
        if not self.resumed:
            self.task._resumed_plan = {}  # that of the finder's own checkpoint
            trainer.strategy.setup_optimizers(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"lr": self.task.lr, "batch_size": getattr(self.data, "batch_size", None)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both, but not from the checkpoint to which a finder itself returns."""
        if self.resumed:
            self.task.lr = state_dict["lr"]
            if state_dict["batch_size"] is not None:  # data of one's own may have none
                self.data.batch_size = state_dict["batch_size"]  # type: ignore[attr-defined]
