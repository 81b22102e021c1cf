"""Compare the finished runs of both loops: their differences, and the cost of each."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from twinloop.comparison import report
from twinloop.comparison.differences import compare_tensors, differences
from twinloop.errors import as_user_error
from twinloop.files import as_json, atomic_write
from twinloop.loops import LOOPS, Loop
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.folder import latest_checkpoint
from twinloop.runs.record import flat
from twinloop.runs.timings import EventTimings, read_record, read_timings

SAME_NAMES = ("state_dict", "optimizer_states", "lr_schedulers")
"""The parts of a checkpoint that determine the rest of a run, equal in both loops."""


@dataclass(frozen=True)
class ComparedRun:
    """A run of a comparison."""

    loop: Loop
    seed: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether its comparison has seen it end: memory.txt is written last."""
        return all((self.folder / name).is_file() for name in ("results.json", "memory.txt"))

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found

    @property
    def timings(self) -> EventTimings:
        return read_timings(self.folder)

    @property
    def megabytes(self) -> float:
        """The peak memory of its process in MiB; NaN where the system does not tell."""
        return float((self.folder / "memory.txt").read_text())


def write_report(
    experiment: str,
    command: Sequence[str],
    runs: Sequence[ComparedRun],
    lines: dict[Loop, float],
    folder: Path,
) -> bool:
    """Print the differences and costs of finished runs, and write them as JSON and HTML.

    Args:
        experiment: The experiment's name.
        command: The command line of the comparison.
        runs: The runs, by seed and then by loop; those of the first seed have a record.
        lines: Distinct lines of each loop's package that two steps execute.
        folder: The folder to write to.

    Returns:
        Whether the runs of each seed are bit-identical.
    """
    pairs = {run.seed: [other for other in runs if other.seed == run.seed] for run in runs}
    first = runs[0].seed
    verdicts, identical = {}, True
    for seed, pair in pairs.items():
        verdicts[str(seed)], same = verdict(*pair, recorded=seed == first)
        identical &= same
        print(f"seed {seed}: {verdicts[str(seed)]}")
    costs = _costs([run for run in runs if run.seed != first] or runs)
    costs["lines of the loop's code in two steps"] = {loop: [lines[loop]] for loop in LOOPS}
    report.show(costs)
    comparison = {
        "experiment": experiment,
        "command": shlex.join(command),
        "identical": identical,
        "verdicts": verdicts,
        "costs": costs,
        "results": {f"{run.loop}-{run.seed}": run.results for run in runs},
    }
    _write(comparison, [run.folder for run in pairs[first]], folder)
    return identical


def _write(comparison: dict[str, Any], recorded: Sequence[Path], folder: Path) -> None:
    """Write comparison.json and comparison.html, of the `recorded` runs of the two loops."""
    page = folder / "comparison.html"
    with atomic_write(folder / "comparison.json") as part:
        part.write_text(as_json(comparison))
    with atomic_write(page) as part:
        part.write_text(report.page(comparison, *recorded), encoding="utf-8")
    print(f"page, and comparison.json in the same folder: {page}")
    print(f"in TensorBoard: tensorboard --logdir {folder}")


def verdict(one: ComparedRun, other: ComparedRun, *, recorded: bool) -> tuple[str, bool]:
    """A line on the differences of two finished runs, and whether they are identical."""
    checkpoints = [
        read_checkpoint(run.folder / "checkpoints" / "last.ckpt") for run in (one, other)
    ]
    found = _differing(*checkpoints)
    rows = [run.results["history"] for run in (one, other)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    if rows[0] != rows[1]:
        found.append("metrics: the histories differ")
    steps = f"{checkpoints[0]['global_step']:,} steps"
    if recorded:
        found = differences(read_record(one.folder), read_record(other.folder)) + found
        steps += ", every loss"
    if found:
        return f"DIFFERENT in {len(found)} places, first {found[0]}", False
    weights = sum(weight.numel() for weight in checkpoints[0]["state_dict"].values())
    metrics = len(rows[0][0]) - 1
    return (
        f"identical: {steps}, {weights:,} weights, optimiser state, {metrics} metrics of "
        f"{len(rows[0])} epochs, bit for bit"
    ), True


def compare_checkpoints(logs: Path, experiment: str, against: Path) -> int:
    """Compare the last checkpoint of the latest run with another one; returns the exit status."""
    latest = latest_checkpoint(logs, experiment)
    checkpoints = read_checkpoint(latest), read_checkpoint(against)
    with as_user_error(f"{against}: this checkpoint cannot be compared"):
        found = _differing(*checkpoints)
    print(f"{latest}\n{against}")
    if found:
        print(f"DIFFERENT in {len(found)} places, first {found[0]}")
        return 1
    print("identical: weights, optimiser state and schedule, bit for bit")
    return 0


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [
        line
        for name in SAME_NAMES
        for line in compare_tensors(name, flat(one[name]), flat(other[name]))
    ]


def _costs(runs: Sequence[ComparedRun]) -> dict[str, dict[str, list[float]]]:
    """The costs of each loop: by name and loop, a value for each seed."""
    by_loop = {loop: [run for run in runs if run.loop == loop] for loop in LOOPS}
    costs: dict[str, dict[str, list[float]]] = {}

    def add(name: str, measure: Any) -> None:
        found: dict[str, list[float]] = {
            loop: [measure(run) for run in runs] for loop, runs in by_loop.items()
        }
        # A metric that is NaN or infinite is null in results.json.
        numbers = (number for numbers in found.values() for number in numbers)
        if all(number is not None and math.isfinite(number) for number in numbers):
            costs[name] = found

    for stage in ("val", "test"):
        for name, value in runs[0].results[stage].items():
            if isinstance(value, float):
                add(f"{stage}/{name}", lambda run, s=stage, n=name: run.results[s][n])
    add("seconds an epoch", lambda run: mean(run.results["seconds"]["per_epoch"]))
    add("µs a step outside the model", lambda run: run.timings.outside() * 1e6)
    add("MiB of memory", lambda run: run.megabytes)
    return costs
