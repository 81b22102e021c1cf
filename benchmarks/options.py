"""The effect of an option: a training step with and without it, by the Learner with metrics only.

The first two steps, in which kernels are compiled, are excluded.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import ROOT, seconds_of_step
from benchmarks.loops import Fit, flags, learner_with_metrics
from benchmarks.pairs import in_turn, row
from benchmarks.race import Contestant
from benchmarks.work import Work
from twinloop.cli.memory import keep_freed_memory
from twinloop.cli.precision import resolved
from twinloop.loops.homemade import build_learner
from twinloop.tasks import Task

PLAIN = "no option"
FUSED = "AdamW with fused true"
HALVES = "two steps of half as many images"
KEPT, GIVEN_BACK = "freed memory kept", "freed memory given back"
STEPS = 12
EXPERIMENTS = ("lesson-classifier", "classifier", "autoencoder")


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """For three networks, the time of a step relative to that without the option.

    Without bfloat16 on machines that have no instructions for it.
    """
    found = []
    for experiment in EXPERIMENTS:
        work = Work(experiment, source, device, limit=STEPS)
        in_one_kernel = replace(work, optimizer={"fused": True})
        in_halves = replace(work, batch_size=work.batch_size // 2)
        ways = {name: partial(seconds_of_step, work, way) for name, way in WAYS.items()}
        if resolved("auto", device.type):
            ways |= {name: partial(seconds_of_step, work, way) for name, way in BFLOAT16.items()}
        ways[FUSED] = partial(seconds_of_step, in_one_kernel, learner_with_metrics)
        ways[HALVES] = partial(seconds_of_two_steps, in_halves)
        times = in_turn(ways, rounds)
        found += [row(times, name, PLAIN, experiment=experiment) for name in ways if name != PLAIN]
    for experiment in EXPERIMENTS:
        ways = {
            name: partial(in_new_process, experiment, source, device, name)
            for name in (KEPT, GIVEN_BACK)
        }
        found.append(row(in_turn(ways, rounds), KEPT, GIVEN_BACK, experiment=experiment))
    return found


@contextmanager
def compiled(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """A compiled network."""
    task.compile(mode="default")
    with learner_with_metrics(work, task, folder) as fit:
        yield fit


@contextmanager
def contiguous(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Weights in torch's own order in memory, in place of channels_last."""
    task.network.to(memory_format=torch.contiguous_format)
    with learner_with_metrics(work, task, folder) as fit:
        yield fit


@contextmanager
def on_two_threads(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """One more thread than the other ways have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    with learner_with_metrics(work, task, folder) as fit:
        yield fit
    torch.set_num_threads(threads)


def seconds_of_two_steps(work: Work) -> float:
    """Seconds of two steps."""
    return 2 * seconds_of_step(work, learner_with_metrics)


@contextmanager
def in_precision(precision: str, work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Another precision."""
    learn = build_learner(task, work.data, flags(work) | {"precision": precision})
    yield lambda: learn.fit(learn.n_epochs, valid=False)


def in_new_process(experiment: str, source: str, device: torch.device, memory: str) -> float:
    """Seconds of a step in a new process that keeps freed memory, or does not."""
    command = [sys.executable, "-m", "benchmarks.options", experiment, source, str(device), memory]
    return float(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


WAYS: dict[str, Contestant] = {
    PLAIN: learner_with_metrics,
    "--compile default": compiled,
    "contiguous weights": contiguous,
    "one more thread": on_two_threads,
}
BFLOAT16: dict[str, Contestant] = {
    "--trainer.precision bf16-mixed": partial(in_precision, "bf16-mixed"),
    "--trainer.precision bf16-true": partial(in_precision, "bf16-true"),
}


if __name__ == "__main__":  # in a new process
    torch.set_num_threads(1)
    if sys.argv[4] == KEPT:
        keep_freed_memory()
    work = Work(sys.argv[1], sys.argv[2], torch.device(sys.argv[3]), limit=STEPS)
    print(seconds_of_step(work, learner_with_metrics))
