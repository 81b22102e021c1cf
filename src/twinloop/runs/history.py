"""The history of a run: a row for each epoch, kept by either loop and across resumes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinloop.runs.throughput import Throughput

Watch = Callable[[Mapping[str, float]], None]
"""Is shown the row of each epoch, and raises `Pruned` to end the run."""


class Pruned(Exception):  # noqa: N818 - not an error: a weaker run than others has been ended
    """Who watches a run has ended it, after its epoch was saved."""


class History:
    """Rows of `epoch` (from 1), `seconds`, and the metrics of the epoch.

    The metrics of val are those of the epoch's last validation, if any. `state_dict` includes those
    of an epoch that has not ended.

    Args:
        loop: The loop that trains.
        weights: The checkpoint that a new run starts from, if any.
    """

    def __init__(self, loop: str, weights: str | None = None) -> None:
        self.loops = [loop]
        self.weights = weights
        self.rows: list[dict[str, float]] = []
        self.val: dict[str, float] = {}
        self.throughput = Throughput()  # since this process began
        self._started = 0.0

    def start(self) -> None:
        """Start the clock of an epoch, or of the rest of one that is resumed."""
        self._started = time.perf_counter()
        self.throughput.skip()

    def validated(self, metrics: Mapping[str, Tensor]) -> None:
        """Keep the metrics of a validation."""
        self.throughput.skip()
        self.val = _of_stage("val", metrics)

    def end(self, epoch: int, metrics: Mapping[str, Tensor]) -> None:
        """Add the row of `epoch`, counted from 0; its seconds include validation."""
        seconds = time.perf_counter() - self._started
        measured = _of_stage("train", metrics) | self.val
        self.rows.append({"epoch": epoch + 1, "seconds": seconds} | measured)
        self.val = {}

    def show_last(self, scheduler: ReduceLROnPlateau, monitor: str, every: int = 1) -> None:
        """Step a resumed scheduler with the last epoch's metric: it was saved before that step.

        It steps after `every` so many epochs.
        """
        steps, more = divmod(len(self.rows), every)
        if not more and scheduler.last_epoch < steps and monitor in self.rows[-1]:
            scheduler.step(self.rows[-1][monitor])

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": list(self.rows),
            "val": self.val,
            "trained_by": list(self.loops),
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the `state` of a checkpoint.

        Raises:
            ValueError: a row without epoch or seconds, a value that is not a number, or invalid
                names of loops or weights.
        """
        for row in state["rows"]:
            if not _has_numbers(row) or not {"epoch", "seconds"} <= row.keys():
                raise ValueError(f"invalid row of the history: {row}")
        if not _has_numbers(state["val"]):
            raise ValueError(f"invalid metrics of a validation: {state['val']}")
        loops, weights = state["trained_by"], state["weights"]
        if not isinstance(loops, list) or not all(isinstance(loop, str) for loop in loops):
            raise ValueError(f"invalid names of loops: {loops}")
        if not isinstance(weights, str | None):
            raise ValueError(f"invalid path of weights: {weights}")
        self.rows[:] = state["rows"]
        self.val = state["val"]
        self.loops = loops if loops[-1:] == self.loops else [*loops, *self.loops]
        self.weights = weights


def _has_numbers(row: Any) -> bool:
    return isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())


def _of_stage(stage: str, metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """The metrics of whole passes over `stage`, without those of single steps (`_step`)."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name.startswith(f"{stage}/") and not name.endswith("_step")
    }
