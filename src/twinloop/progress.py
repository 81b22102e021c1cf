"""Progress in a terminal or a notebook, for both loops: bars, and a line for each epoch."""

import sys
from collections.abc import Mapping
from html import escape

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from twinloop.notebook import Output, in_notebook


class Bars(Progress):
    """A bar for each pass that is running, between `start` and `stop`.

    Args:
        draw: Whether to draw the bars; only in a terminal or a notebook if unset. Lines are always
            printed.
    """

    def __init__(self, draw: bool | None = None) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # In a notebook rich would need ipywidgets, and draw the second fit into the first one's.
        self.output = Output(0.25) if in_notebook() and draw is not False else None
        terminal = sys.stdout.isatty() if draw is None else draw
        super().__init__(
            TextColumn("{task.description}"),
            *columns,
            console=Console(force_jupyter=False),
            transient=True,
            disable=self.output is not None or not terminal,
            refresh_per_second=4,  # each refresh delays training by milliseconds
        )
        self.of_stage: dict[str, TaskID] = {}

    def move(self, stage: str, epoch: str, done: int, total: float) -> None:
        """Show `done` of `total` batches of 'train' or 'val', in a new bar if there is none."""
        if stage not in self.of_stage:
            self.of_stage[stage] = self.add_task(f"{epoch} {stage}", total=total)
        self.update(self.of_stage[stage], completed=done)
        if self.output and self.output.is_due:
            self.output.show(self.as_html())

    def stop(self) -> None:
        """Remove the bars that are drawn; those of the next start are drawn anew."""
        super().stop()
        if self.output and self.output.handle:
            self.output.show({"text/html": "", "text/plain": ""})
            self.output.end()

    def take_away(self, stage: str) -> None:
        """Remove the bar of `stage`, if there is one."""
        if stage in self.of_stage:
            self.remove_task(self.of_stage.pop(stage))

    def as_html(self) -> dict[str, str]:
        """The bars as they are in a notebook."""
        lines = [f"{t.description} {t.completed:.0f}/{t.total or 0:.0f}" for t in self.tasks]
        bars = [f'<progress value="{t.completed}" max="{t.total}"></progress>' for t in self.tasks]
        rows = (f"<div>{bar} {escape(line)}</div>" for bar, line in zip(bars, lines, strict=True))
        return {"text/html": "".join(rows), "text/plain": "\n".join(lines)}

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
