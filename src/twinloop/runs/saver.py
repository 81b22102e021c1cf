"""The checkpoints of a run, and when they are saved: the same for either loop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from twinloop.errors import UserError
from twinloop.files import atomic_write
from twinloop.learner.callbacks.checkpoint import is_best
from twinloop.processes import is_first, largest
from twinloop.runs import summary as summaries


class Saver:
    """Saves `last.ckpt` after every epoch, and `best.ckpt` of the best validation so far.

    `best.ckpt` has the weights that were validated: a validation inside an epoch is saved
    immediately, and one after the last batch of an epoch at the end of that epoch.

    Args:
        folder: The folder of the run.
        monitor: The metric of val that decides; with None there is no best.
        mode: 'min' or 'max': which value of the metric is better.
        settings: Every setting of the run in plain types, for its checkpoints.
        config: The experiment as YAML, for config.yaml.
        summary: What run.json begins with; without it there is none.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str | None,
        mode: str,
        settings: dict[str, Any],
        config: str,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.monitor, self.mode = folder, monitor, mode
        self.settings, self.config, self.summary = settings, config, summary
        self.best: Tensor | None = None
        self.waiting = False

    @property
    def last_path(self) -> Path:
        """The checkpoint of the last epoch, or of the batch after which the run was stopped."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best_path(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    def begin(self) -> None:
        """Write config.yaml and run.json, once the run can no longer be refused.

        A best value without its file, as in a run that is resumed in another folder, is dropped.
        """
        if not largest(int(is_first() and self.best_path.exists())):
            self.best = None
        if is_first():
            with atomic_write(self.folder / "config.yaml") as part:
                part.write_text(self.config, encoding="utf-8")
            if self.summary is not None:
                summaries.begin(self.folder, self.summary)

    def validated(
        self, metrics: Mapping[str, Tensor], *, ends_epoch: bool, save: Callable[[Path], None]
    ) -> None:
        """Save a validation that is the best so far, now or at the end of its epoch.

        Raises:
            UserError: validation does not measure `monitor`.
        """
        if self.monitor is None:
            return
        if self.monitor not in metrics:
            there = ", ".join(sorted(metrics))
            raise UserError(f"the task's monitor is {self.monitor!r}; its metrics are: {there}")
        value = metrics[self.monitor].detach().cpu()
        if is_best(value, self.best, self.mode):
            self.best = value
            self.waiting = ends_epoch
            if not ends_epoch:
                save(self.best_path)

    def end_epoch(self, save: Callable[[Path], None]) -> None:
        """Save `last.ckpt`, and `best.ckpt` if the epoch's last validation is the best."""
        if self.waiting:
            self.waiting = False
            save(self.best_path)
        save(self.last_path)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state.get("best")
