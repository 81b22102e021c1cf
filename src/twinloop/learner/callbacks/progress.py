"""How far the run is."""

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class ProgressCB(Callback):
    """A bar for each pass in a terminal, and a line of metrics for each epoch anywhere."""

    follows = ("MetricsCB",)

    def __init__(self, bar: bool | None = None) -> None:
        self.bar = sys.stdout.isatty() if bar is None else bar
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # While a bar is drawn, which takes milliseconds of Python, the training waits.
        self.progress = Progress(
            TextColumn("{task.description}"),
            *columns,
            transient=True,
            disable=not self.bar,
            refresh_per_second=4,
        )
        self.tasks: dict[str, TaskID] = {}
        self.started = 0.0

    def before_fit(self, learn: Learner) -> None:
        """Start drawing."""
        self.progress.start()

    def before_epoch(self, learn: Learner) -> None:
        """Begin a bar."""
        if learn.training == learn.passes[0]:
            self.started = time.perf_counter()
        name = f"epoch {learn.epoch + 1}/{learn.n_epochs} {learn.stage}"
        self.tasks[learn.stage] = self.progress.add_task(name)

    def after_batch(self, learn: Learner) -> None:
        """Move it on."""
        task = self.tasks[learn.stage]
        self.progress.update(task, completed=learn.num + 1, total=learn.n_batches)

    def after_epoch(self, learn: Learner) -> None:
        """Say how the epoch went."""
        if learn.ends_epoch:
            numbers = [f"{name} {float(value):.4f}" for name, value in learn.metrics.items()]
            seconds = f"{time.perf_counter() - self.started:.1f} s"
            line = "  ".join([f"epoch {learn.epoch + 1}/{learn.n_epochs}", seconds, *numbers])
            self.progress.console.print(line, highlight=False, soft_wrap=True)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Take the bar away; one of train may still be below that of a validation inside it."""
        if learn.stage in self.tasks:
            self.progress.remove_task(self.tasks.pop(learn.stage))

    def cleanup_fit(self, learn: Learner) -> None:
        """Give the terminal back."""
        self.progress.stop()
