"""Where the finished runs of both loops differ, and what each of them cost."""

import json
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
"""The parts of a checkpoint that decide how a run goes on, the same in either loop."""


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison: its loop, its seed, its folder."""

    loop: Loop
    seed: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end, and this process has seen it: memory.txt comes last."""
        return all((self.folder / name).is_file() for name in ("results.json", "memory.txt"))

    @property
    def results(self) -> dict[str, Any]:
        """Its results.json."""
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found

    @property
    def timings(self) -> EventTimings:
        """When everything was."""
        return read_timings(self.folder)

    @property
    def megabytes(self) -> float:
        """The most memory that its process had at once."""
        return float((self.folder / "memory.txt").read_text())


def write_report(
    experiment: str,
    command: Sequence[str],
    runs: Sequence[ComparedRun],
    lines: dict[Loop, float],
    folder: Path,
) -> bool:
    """Print and write where finished runs differ and what they cost, as JSON and as a page.

    Args:
        experiment: The experiment's name.
        command: The command line that asked for the runs.
        runs: The runs, by seed and in it by loop; those of the first seed kept every number.
        lines: Distinct lines of each loop's own code that two steps execute.
        folder: Where to write.

    Returns:
        Whether the runs of each seed are the same bit for bit.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    found = {
        seed: verdict(*(run for run in runs if run.seed == seed), recorded=seed == seeds[0])
        for seed in seeds
    }
    for seed, (line, _) in found.items():
        print(f"seed {seed}: {line}")
    costs = _costs([run for run in runs if run.seed != seeds[0]] or runs)
    costs["lines of the loop's code in two steps"] = {loop: [lines[loop]] for loop in LOOPS}
    report.show(costs)
    same = all(same for _, same in found.values())
    comparison = {
        "experiment": experiment,
        "command": shlex.join(command),
        "identical": same,
        "verdicts": {str(seed): line for seed, (line, _) in found.items()},
        "costs": costs,
        "results": {f"{run.loop}-{run.seed}": run.results for run in runs},
    }
    with atomic_write(folder / "comparison.json") as part:
        part.write_text(as_json(comparison))
    page = folder / "comparison.html"
    with atomic_write(page) as part:
        part.write_text(report.page(comparison, *(run.folder for run in runs[:2])))
    print(f"page, and comparison.json beside it: {page}")
    print(f"look at both runs: tensorboard --logdir {folder}")
    return same


def verdict(one: ComparedRun, other: ComparedRun, *, recorded: bool) -> tuple[str, bool]:
    """One line on whether two finished runs are the same, and whether they are."""
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
    """Compare what two runs had saved, whenever they were."""
    latest = latest_checkpoint(logs, experiment)
    checkpoints = read_checkpoint(latest), read_checkpoint(against)
    with as_user_error(f"{against}: no checkpoint that can be compared"):
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
    """What each loop cost: by what was measured, a number for each seed."""
    by_loop = {loop: [run for run in runs if run.loop == loop] for loop in LOOPS}
    costs: dict[str, dict[str, list[float]]] = {}

    def add(name: str, measure: Any) -> None:
        found: dict[str, list[float]] = {
            loop: [measure(run) for run in runs] for loop, runs in by_loop.items()
        }
        # A metric that was no number is null in results.json.
        if not any(None in numbers for numbers in found.values()):
            costs[name] = found

    for stage in ("val", "test"):
        for name, value in runs[0].results[stage].items():
            if isinstance(value, float):
                add(f"{stage}/{name}", lambda run, s=stage, n=name: run.results[s][n])
    add("seconds an epoch", lambda run: mean(run.results["seconds"]["per_epoch"]))
    add("µs a step outside the model", lambda run: run.timings.outside() * 1e6)
    add("MB of memory", lambda run: run.megabytes)
    return costs
