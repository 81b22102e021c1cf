"""Time contestants that train the same network on the same batches."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from benchmarks.pairs import Times, in_turn, seconds_of
from benchmarks.work import Work
from twinloop.comparison.differences import compare_tensors
from twinloop.tasks import Task

Contestant = Callable[[Work, Task, Path], AbstractContextManager[Callable[[], object]]]
"""Prepares a run, which may write files to a folder; yields the fit to be timed."""
Weights = dict[str, Tensor]


class Terminal(io.StringIO):
    """A terminal in memory, so that progress bars are drawn."""

    def isatty(self) -> bool:
        return True


def race(
    work: Work, contestants: Mapping[str, Contestant], rounds: int, alike: Mapping[str, float] = {}
) -> Times:
    """Time a whole fit of each in turn, each from the same weights.

    Args:
        work: The work of all contestants.
        contestants: Contestants by their names in the table.
        rounds: Rounds after the warm-up.
        alike: Contestants whose weights may differ by rounding, with their tolerances.

    Raises:
        ValueError: two other contestants end with different weights, so that they did not do the
            same work.
    """
    ends: dict[str, Weights] = {}

    def once(name: str) -> float:
        seconds, ends[name] = run(work, contestants[name])
        return seconds

    times = in_turn({name: partial(once, name) for name in contestants}, rounds)
    first, *others = [name for name in contestants if name not in alike]
    for other in others:
        differing = compare_tensors(f"{first}, {other}", ends[first], ends[other])
        if differing:
            raise ValueError(f"not the same work: {differing[0]}")
    return times


def run(work: Work, contestant: Contestant) -> tuple[float, Weights]:
    """The seconds of one fit, and its final weights."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    task = work.task()
    with (
        TemporaryDirectory() as folder,
        contextlib.redirect_stdout(Terminal()),
        contextlib.redirect_stderr(Terminal()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # advice on workers, on old names, on short epochs
        with contestant(work, task, Path(folder)) as fit:
            seconds = seconds_of(fit, work.device)
    return seconds, task.network.state_dict()
