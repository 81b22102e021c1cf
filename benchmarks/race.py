"""Contestants that train the same network on the same batches, and what each took."""

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
"""Prepares a run of the work, which may leave files in a folder; yields the fit to be timed."""
Weights = dict[str, Tensor]


class Terminal(io.StringIO):
    """Where progress bars draw to: they believe that somebody looks."""

    def isatty(self) -> bool:
        """As they ask."""
        return True


def race(
    work: Work, contestants: Mapping[str, Contestant], rounds: int, alike: Mapping[str, float] = {}
) -> Times:
    """Time a whole fit of each in turn, each from the same weights.

    Args:
        work: What to train.
        contestants: By the name that they have in the table.
        rounds: How often.
        alike: Contestants that compute by other formulas and so end with other bits.

    Raises:
        ValueError: two contestants that do not end with the same weights: what they did cannot
            be compared.
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
    """The seconds of one fit, and the weights it ends with."""
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
