"""Time several ways of doing the same work in turn, and compare them round by round.

The speed of a machine varies over time. So every round times each way once, a ratio is taken within
a round, and the result is the median of the rounds' ratios with both quartiles.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

Way = Callable[[], float]
"""Does the work once and returns its seconds, without those of preparing it."""
Times = dict[str, list[float]]
"""Seconds of each way, in the order of the rounds."""


class Target(NamedTuple):
    """The limit of a ratio: at most, or `at_least` if higher is better."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f">= {self.limit:g}" if self.at_least else f"<= {self.limit:g}"


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, until the device has finished."""
    gc.collect()  # or one way would collect the garbage of another
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(ways: Mapping[str, Way], rounds: int) -> Times:
    """Time each way once per round: A B C, B C A, C A B and so on, after a warm-up round."""
    names = list(ways)
    times: Times = {name: [] for name in names}
    for number in range(-1, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = ways[name]()
            if number >= 0:
                times[name].append(seconds)
    return times


def ratios(times: Times, what: str, against: str) -> list[float]:
    """The time of `what` relative to `against`, round by round."""
    return [a / b for a, b in zip(times[what], times[against], strict=True)]


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Median, lower and upper quartile; all the same for a single value."""
    values = list(values)
    if len(values) == 1:
        values *= 2
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def row(
    times: Times, what: str, against: str, target: Target | None = None, **about: str
) -> dict[str, Any]:
    """A row of the results: the time of `what` relative to `against`.

    With an `at_least` target it is the speed instead. `about` adds columns, such as the experiment.
    """
    faster = target is not None and target.at_least
    one, other = (against, what) if faster else (what, against)
    ratio = quartiles(ratios(times, one, other))
    found: dict[str, Any] = {
        **about,
        "what": what,
        "against": against,
        "kind": "times as fast" if faster else "times as long",
        "ratio": ratio,
        "seconds": {name: statistics.median(times[name]) for name in (what, against)},
        "n": len(times[what]),
    }
    if target:
        median = ratio["median"]
        met = median >= target.limit if target.at_least else median <= target.limit
        found |= {"target": str(target), "met": met}
    return found
