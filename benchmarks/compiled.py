"""What `--compile default` gains: a training step with and without it.

The first two steps, in which the kernels are made, are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import seconds_of_step
from benchmarks.loops import Fit, learner_with_metrics
from benchmarks.pairs import in_turn, row
from benchmarks.race import Contestant
from benchmarks.work import Work
from twinloop.tasks import Task

COMPILED, PLAIN = "Learner, compiled", "Learner"
STEPS = 12
EXPERIMENTS = ("lesson-classifier", "classifier", "autoencoder")


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Three networks: how many times as long a step takes."""
    found = []
    for experiment in EXPERIMENTS:
        work = Work(experiment, source, device, limit=STEPS)
        ways = {name: partial(seconds_of_step, work, way) for name, way in WAYS.items()}
        found.append(row(in_turn(ways, rounds), COMPILED, PLAIN, experiment=experiment))
    return found


@contextmanager
def compiled(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Our Learner, with metrics only, and a compiled network."""
    task.compile(mode="default")
    with learner_with_metrics(work, task, folder) as fit:
        yield fit


WAYS: dict[str, Contestant] = {COMPILED: compiled, PLAIN: learner_with_metrics}
