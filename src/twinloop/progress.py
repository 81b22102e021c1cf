"""How far a run is: a bar for each pass in a terminal, a line for each epoch anywhere.

Called by either loop, so that a person sees the same of both.
"""

import sys
from collections.abc import Mapping

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Bars(Progress):
    """The bars of the passes that are on their way; `start` and `stop` are rich's.

    They are drawn where the output is a terminal, if `draw` does not say.
    """

    def __init__(self, draw: bool | None = None) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # While a bar is drawn, which takes milliseconds of Python, the training waits.
        super().__init__(
            TextColumn("{task.description}"),
            *columns,
            transient=True,
            disable=not (sys.stdout.isatty() if draw is None else draw),
            refresh_per_second=4,
        )
        self.of_stage: dict[str, TaskID] = {}

    def move(self, stage: str, epoch: str, done: int, total: float) -> None:
        """Say that `done` of `total` batches of 'train' or 'val' are; the first begins a bar."""
        if stage not in self.of_stage:
            self.of_stage[stage] = self.add_task(f"{epoch} {stage}", total=total)
        self.update(self.of_stage[stage], completed=done)

    def take_away(self, stage: str) -> None:
        """End the bar of `stage`, if there is one."""
        if stage in self.of_stage:
            self.remove_task(self.of_stage.pop(stage))

    def say(self, epoch: str, seconds: float, metrics: Mapping[str, float]) -> None:
        """Print how an epoch went, above the bars."""
        numbers = (f"{name} {value:.4f}" for name, value in metrics.items())
        line = "  ".join([epoch, f"{seconds:.1f} s", *numbers])
        self.console.print(line, highlight=False, soft_wrap=True)

    def say_row(self, row: Mapping[str, float], epochs: int | None) -> None:
        """Print a row of a run's history, one of `epochs`."""
        metrics = dict(row)
        epoch = epoch_of(int(metrics.pop("epoch")) - 1, epochs)
        self.say(epoch, metrics.pop("seconds"), metrics)


def epoch_of(epoch: int, epochs: int | None) -> str:
    """`epoch 1/5` for the epoch counted from 0; `epoch 1` in a run that has no last one."""
    ends = epochs is not None and 0 < epochs < sys.maxsize
    return f"epoch {epoch + 1}/{epochs}" if ends else f"epoch {epoch + 1}"
