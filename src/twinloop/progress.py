"""Progress in the terminal, for both loops: a bar per pass, and a line of metrics per epoch."""

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
    """A bar for each pass that is running; `start` and `stop` are inherited.

    Args:
        draw: Whether to draw the bars; only in a terminal if unset. Lines are always printed.
    """

    def __init__(self, draw: bool | None = None) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(
            TextColumn("{task.description}"),
            *columns,
            transient=True,
            disable=not (sys.stdout.isatty() if draw is None else draw),
            refresh_per_second=4,  # each refresh delays training by milliseconds
        )
        self.of_stage: dict[str, TaskID] = {}

    def move(self, stage: str, epoch: str, done: int, total: float) -> None:
        """Show `done` of `total` batches of 'train' or 'val', in a new bar if there is none."""
        if stage not in self.of_stage:
            self.of_stage[stage] = self.add_task(f"{epoch} {stage}", total=total)
        self.update(self.of_stage[stage], completed=done)

    def take_away(self, stage: str) -> None:
        """Remove the bar of `stage`, if there is one."""
        if stage in self.of_stage:
            self.remove_task(self.of_stage.pop(stage))

    def say(self, epoch: str, seconds: float, metrics: Mapping[str, float]) -> None:
        """Print the line of an epoch above the bars."""
        values = (f"{name} {value:.4f}" for name, value in metrics.items())
        line = "  ".join([epoch, f"{seconds:.1f} s", *values])
        self.console.print(line, highlight=False, soft_wrap=True)

    def say_row(self, row: Mapping[str, float], epochs: int | None) -> None:
        """Print the line of an epoch from its row in the history of a run of `epochs`."""
        metrics = dict(row)
        epoch = epoch_of(int(metrics.pop("epoch")) - 1, epochs)
        self.say(epoch, metrics.pop("seconds"), metrics)


def epoch_of(epoch: int, epochs: int | None) -> str:
    """`epoch 1/5` for epoch 0 of 5; `epoch 1` in a run of unlimited length."""
    limited = epochs is not None and 0 < epochs < sys.maxsize
    return f"epoch {epoch + 1}/{epochs}" if limited else f"epoch {epoch + 1}"
