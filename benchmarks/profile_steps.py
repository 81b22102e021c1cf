"""Where the time of a step is spent, by loop, by torch.profiler.

The parts that all loops have (data, forward and so on) are marked where they are called. Time in
nested parts counts for the inner one only, and the rest of a step is the overhead of the loop:
hooks, callbacks, bookkeeping. The profiler slows down small operations most, so the shares are more
reliable than the milliseconds.

py-spy samples from another process, 250 times a second, which thread holds Python's global lock:
the time in which Python code runs, including that of a progress bar in its own thread.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.optimization.automatic import Closure
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.tensorboard.writer import SummaryWriter

from benchmarks.loops import CONTESTANTS
from benchmarks.race import run
from benchmarks.work import Work
from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.tasks import Task

PARTS = ("data", "forward", "loss", "backward", "optimiser", "metrics", "logging")
REST = "loop and hooks"
STEPS = 40
PACKAGES = ("twinloop", "lightning", "torchmetrics", "rich", "tensorboard", "torch")
RATE = 250
"""py-spy's samples per second."""
SPIED_EPOCHS = 3


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each part of a training step, by loop and network."""
    found = []
    for experiment in ("lesson-classifier", "autoencoder"):
        work = Work(experiment, source, device, limit=STEPS)
        for loop in CONTESTANTS:
            found.append({"experiment": experiment, "loop": loop, "ms": parts_of_step(work, loop)})
    for loop in CONTESTANTS:
        python = python_of_batch(source, device, loop)
        found.append({"experiment": "lesson-classifier", "loop": loop, "python_ms": python})
    return found


def python_of_batch(source: str, device: torch.device, loop: str) -> dict[str, float]:
    """Milliseconds per batch, of train or val, in which each package holds Python's global lock.

    A package's time is that of its own lines, without its calls of other packages.
    """
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--full-filenames"]
    child = [sys.executable, "-m", "benchmarks.profile_steps", source, str(device), loop]
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        options = ["--rate", str(RATE), "--format", "raw", "--output", str(raw)]
        subprocess.run([*spy, *options, "--", *child], check=True, capture_output=True)
        samples = by_package(raw.read_text())
    work = Work("lesson-classifier", source, device)
    batches = sum(work.limits.values()) * SPIED_EPOCHS
    return {name: count / RATE * 1000 / batches for name, count in samples.items()}


def by_package(raw: str) -> dict[str, int]:
    """Samples of a fit by the package of the innermost frame, from py-spy's raw form.

    Its lines are `outer (file:line);inner (file:line) count`.
    """
    samples = dict.fromkeys((*PACKAGES, "others"), 0)
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if "seconds_of (" in stack or "threading.py" in stack:
            place = stack.rpartition(";")[2]
            names = (
                name for name in PACKAGES if re.search(rf"/(src|site-packages)/{name}/", place)
            )
            samples[next(names, "others")] += int(count)
    return samples


def parts_of_step(work: Work, loop: str) -> dict[str, float]:
    """Mean milliseconds of each part of a training step of `loop`."""
    activities = [ProfilerActivity.CPU]
    if work.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    run(work, CONTESTANTS[loop])  # warm up
    with marked(work), profile(activities=activities, acc_events=True) as profiled:
        run(work, CONTESTANTS[loop])
    marks = sorted(
        (event.time_range.start, -event.time_range.end, event.name.removeprefix("part "))
        for event in profiled.events() or ()
        if event.name.startswith("part ")
    )
    return exclusive([(start, -end, name) for start, end, name in marks], work.limits["train"])


def exclusive(marks: list[tuple[float, float, str]], steps: int) -> dict[str, float]:
    """Milliseconds per step of each part, without nested parts, from (start, end, name) in us.

    A training pass lasts from its first batch to the end of its last step.
    """
    requested = [start for start, _, name in marks if name == "data"][:steps]
    begin = requested[0]
    end = max(end for _, end, name in marks if name == "optimiser")
    inside = [mark for mark in marks if begin <= mark[0] and mark[1] <= end]
    own = dict.fromkeys((*PARTS, REST), 0.0)
    open_marks: list[tuple[float, float, str]] = []
    covered = 0.0
    for start, finish, name in inside:
        while open_marks and open_marks[-1][1] <= start:
            open_marks.pop()
        if open_marks:
            own[open_marks[-1][2]] -= finish - start
        else:
            covered += finish - start
        own[name] += finish - start
        open_marks.append((start, finish, name))
    own[REST] += end - begin - covered
    return {name: microseconds / 1000 / steps for name, microseconds in own.items()}


@contextmanager
def marked(work: Work) -> Iterator[None]:
    """Mark the parts of a step wherever they are called from."""
    places: list[tuple[Any, str, str]] = [
        (type(work.task().network), "forward", "forward"),
        (type(work.task()), "loss", "loss"),
        (torch.Tensor, "backward", "backward"),
        (type(work.task().optimizer([torch.zeros(1)])), "step", "optimiser"),
        (Optimizer, "zero_grad", "optimiser"),
        (Task, "count", "metrics"),
        (ImageDataModule, "on_after_batch_transfer", "data"),
        (pl.LightningModule, "log", "logging"),
        (SummaryWriter, "add_scalar", "logging"),
        (Closure, "__call__", REST),  # called by the optimiser's step
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, part in places:
            wrapped = _marking(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, wrapped))
        stack.enter_context(patch.object(Batches, "__iter__", _marking_each(Batches.__iter__)))
        yield


def _marking(part: str, function: Any) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"part {part}"):
            return function(*args, **kwargs)

    return call


def _marking_each(iterate: Any) -> Any:
    def call(self: Batches) -> Iterator[Any]:
        batches = iterate(self)
        while True:
            with record_function("part data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    return call


if __name__ == "__main__":  # the process that py-spy samples
    torch.set_num_threads(1)
    run(
        Work("lesson-classifier", sys.argv[1], torch.device(sys.argv[2]), epochs=SPIED_EPOCHS),
        CONTESTANTS[sys.argv[3]],
    )
