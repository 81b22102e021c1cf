"""The files of a run for a comparison: `trace.json`, the times, and `record.pt`, every value.

`fit --record times` writes the first, `fit --record all` both. The norm of every gradient takes
time, so times are compared between runs without it.
"""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from twinloop.files import atomic_write, save_whole
from twinloop.learner.callbacks.trace import Traced
from twinloop.runs.record import Record

BATCH_STARTS = ("on_train_batch_start", "before_batch")
BACKWARD = {
    "on_before_backward": "on_after_backward",  # Lightning's hooks
    "after_loss": "after_backward",  # the Learner's events
}
BEFORE_STEP = ("on_before_optimizer_step", "before_step")


@dataclass
class EventTimings:
    """The time of each hook or event, and of the model's own work; in seconds.

    `forward` has the start and end of each forward in training, `stepped` the end of each optimiser
    step; the start of a step, and both ends of a backward, are events of the loop.
    """

    events: list[Traced] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    forward: list[tuple[float, float]] = field(default_factory=list)
    stepped: list[float] = field(default_factory=list)

    @contextmanager
    def timing(self, network: nn.Module) -> Iterator[None]:
        """Time each forward of `network` in training, and each optimiser step."""
        started = 0.0

        def start(*_: Any) -> None:
            nonlocal started
            started = time.perf_counter()

        def end(module: nn.Module, *_: Any) -> None:
            if module.training:
                self.forward.append((started, time.perf_counter()))

        def step(*_: Any) -> None:
            self.stepped.append(time.perf_counter())

        handles = [
            network.register_forward_pre_hook(start),
            network.register_forward_hook(end),
            register_optimizer_step_post_hook(step),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def outside(self) -> float:
        """Median seconds of a training step outside the model: data, hooks, logging.

        From the start of a batch to that of the next one in the same epoch, minus its forward, its
        backward, and the time from the last event before the optimiser step to the end of it.
        """
        found: list[float] = []
        start: tuple[int, float] | None = None
        inside = 0.0
        previous = "", 0.0
        following = [*self.times[1:], math.inf]
        for event, at, later in zip(self.events, self.times, following, strict=True):
            if event.stage != "train":
                start = None  # validation is not part of a step
                continue
            if event.event in BATCH_STARTS:
                if start and start[0] == event.epoch:
                    found.append(at - start[1] - inside - self._forward(start[1], at))
                start, inside = (event.epoch, at), 0.0
            elif BACKWARD.get(previous[0]) == event.event:
                inside += at - previous[1]
            elif event.event in BEFORE_STEP:
                # None between two events: the step was cancelled, as where batches accumulate.
                done = self.stepped[
                    bisect_left(self.stepped, at) : bisect_left(self.stepped, later)
                ]
                inside += done[-1] - at if done else 0.0
            previous = event.event, at
        return median(found) if found else float("nan")

    def _forward(self, start: float, end: float) -> float:
        """Seconds of all forwards that began between two times."""
        spans = self.forward[
            bisect_left(self.forward, (start,)) : bisect_left(self.forward, (end,))
        ]
        return sum(done - began for began, done in spans)

    def by_event(self) -> dict[str, tuple[int, float]]:
        """The number of calls of each hook or event, and the seconds from it to the next."""
        found: dict[str, tuple[int, float]] = {}
        for (event, at), (_, later) in pairwise(zip(self.events, self.times, strict=True)):
            name = f"{event.stage} {event.event}"
            count, seconds = found.get(name, (0, 0.0))
            found[name] = count + 1, seconds + later - at
        return found


def write_timings(run: Path, timings: EventTimings, record: Record | None) -> None:
    """Write trace.json, and record.pt if there is a record."""
    with atomic_write(run / "trace.json") as part:
        part.write_text(json.dumps(asdict(timings)))
    if record is not None:
        save_whole(asdict(record), run / "record.pt")


def read_timings(run: Path) -> EventTimings:
    """Read the trace.json of a run."""
    content = json.loads((run / "trace.json").read_text())
    content["events"] = [Traced(*event) for event in content["events"]]
    content["forward"] = [(began, done) for began, done in content["forward"]]
    return EventTimings(**content)


def read_record(run: Path) -> Record:
    """Read the record.pt of a run."""
    return Record(**torch.load(run / "record.pt", weights_only=True))
