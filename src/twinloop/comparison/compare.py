"""`python -m twinloop compare`: one experiment through both loops, and what became of it.

Each loop and seed is a process of its own, from the same start. The first seed keeps every number
(`record.pt`); the others, where there are any, give the times, which taking numbers would disturb.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from twinloop.cli.experiment import SEEDS, checked_name, read_experiment
from twinloop.comparison import report
from twinloop.comparison.differences import compare_tensors, differences
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.errors import Parser, UserError, told_as_mistake
from twinloop.files import as_json, written_whole
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.diary import Diary, read_diary, read_record
from twinloop.runs.folder import latest_checkpoint, only_process
from twinloop.runs.record import flat
from twinloop.runs.stop import StoppedAtOnce

SAME_NAMES = ("state_dict", "optimizer_states", "lr_schedulers")
"""The parts of a checkpoint that decide how a run goes on, the same in either loop."""

MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Run:
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
    def diary(self) -> Diary:
        """When everything was."""
        return read_diary(self.folder)

    @property
    def megabytes(self) -> float:
        """The most memory that its process had at once."""
        return float((self.folder / "memory.txt").read_text())


def main(args: list[str]) -> int:
    """Run the command; returns 0 where the runs are the same bit for bit, and 1 where not.

    Raises:
        UserError: no experiment, a run that failed, or a checkpoint that cannot be read.
    """
    parser = Parser("python -m twinloop compare", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="a file of experiments/")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted up from the file's")
    parser.add_argument("--resume", action="store_true", help="go on with the last comparison")
    parser.add_argument("--against", type=Path, help="a checkpoint, to compare the latest run with")
    parser.add_argument("--trainer.default_root_dir", dest="root", type=Path)
    wanted, options = parser.parse_known_args(args)
    if not wanted.config.is_file():
        raise UserError(f"config: there is no file {wanted.config}")
    experiment = read_experiment(wanted.config)
    name = checked_name(experiment.get("experiment"), wanted.config)
    logs = (wanted.root or _root(experiment)) / "lightning_logs"
    if wanted.against:
        return _compare_checkpoints(logs, name, wanted.against)

    seeds = _seeds(experiment.get("seed_everything", 42), wanted.seeds, wanted.config)
    folder = _folder(logs / name, wanted.resume)
    runs = [Run(loop, seed, folder / f"{loop}-{seed}") for seed in seeds for loop in LOOPS]
    for run in runs:
        if not run.is_finished:
            recorded = "all" if run.seed == seeds[0] else "times"
            _train(run, [*options, "--record", recorded], wanted.config, folder)
    found = {
        seed: verdict(*(run for run in runs if run.seed == seed), recorded=seed == seeds[0])
        for seed in seeds
    }
    for seed, (line, _) in found.items():
        print(f"seed {seed}: {line}")
    costs = _costs([run for run in runs if run.seed != seeds[0]] or runs)
    lines = {loop: _lines(loop, wanted.config, options) for loop in LOOPS}
    costs["lines of the loop's code in two steps"] = {loop: [lines[loop]] for loop in LOOPS}
    report.show(costs)
    comparison = {
        "experiment": name,
        "command": shlex.join(["python", "-m", "twinloop", "compare", *args]),
        "identical": all(same for _, same in found.values()),
        "verdicts": {str(seed): line for seed, (line, _) in found.items()},
        "costs": costs,
        "results": {f"{run.loop}-{run.seed}": run.results for run in runs},
    }
    with written_whole(folder / "comparison.json") as part:
        part.write_text(as_json(comparison))
    page = folder / "comparison.html"
    with written_whole(page) as part:
        part.write_text(report.page(comparison, *(run.folder for run in runs[:2])))
    print(f"page, and comparison.json beside it: {page}")
    print(f"look at both runs: tensorboard --logdir {folder}")
    return 0 if comparison["identical"] else 1


def verdict(one: Run, other: Run, *, recorded: bool) -> tuple[str, bool]:
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


def _compare_checkpoints(logs: Path, experiment: str, against: Path) -> int:
    """Compare what two runs had saved, whenever they were."""
    latest = latest_checkpoint(logs, experiment)
    checkpoints = read_checkpoint(latest), read_checkpoint(against)
    with told_as_mistake(f"{against}: no checkpoint that can be compared"):
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


def _root(experiment: dict[str, Any]) -> Path:
    """The folder that an experiment's file has for the runs of all experiments."""
    trainer = experiment.get("trainer")
    asked = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    return Path(str(asked or "."))


def _seeds(first: Any, count: int, config: Path) -> range:
    """`count` seeds, counted up from the file's."""
    if type(first) is not int or not 0 <= first < SEEDS:
        raise UserError(
            f"{config}: seed_everything is {first!r}; a comparison needs a number from 0 to "
            f"{SEEDS - 1:,}"
        )
    most = min(MOST_SEEDS, SEEDS - first)
    if not 1 <= count <= most:
        raise UserError(f"--seeds is {count:,}; it must be from 1 to {most:,}")
    return range(first, first + count)


def _folder(runs: Path, resume: bool) -> Path:
    """A new folder for a comparison, or that of the last one."""
    numbers = [
        int(match[1])
        for path in runs.glob("compare_*")
        if (match := re.fullmatch(r"compare_(\d+)", path.name))
    ]
    if resume and not numbers:
        raise UserError(f"resume: there is no comparison in {runs}; leave --resume out")
    number = max(numbers) if resume else max(numbers, default=-1) + 1
    folder = runs / f"compare_{number}"
    try:
        folder.mkdir(parents=True, exist_ok=resume)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    return folder


def _train(run: Run, options: Sequence[str], config: Path, folder: Path) -> None:
    """Run `fit` in a process of its own; what was left half done is begun again."""
    command = [sys.executable, "-m", "twinloop", "fit", "--config", str(config), *options]
    command += [
        "--loop",
        run.loop,
        "--seed_everything",
        str(run.seed),
        "--run_folder",
        str(run.folder),
    ]
    print(f"\n{run.loop} loop, seed {run.seed}", flush=True)
    run.folder.mkdir(exist_ok=True)
    # The run of a comparison that was killed has gone on without it.
    only_process(run.folder, wait=True).release()
    shutil.rmtree(run.folder)
    with subprocess.Popen(command) as process:
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except StoppedAtOnce as stopped:
            process.terminate()  # Ctrl-C has reached it too, SIGTERM has not
            process.wait()
            raise StoppedAtOnce(stopped.by, "go on with --resume") from None
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        done = sorted(path.parent.name for path in folder.glob("*/memory.txt"))
        raise UserError(
            f"the {run.loop} run of seed {run.seed} ended with status {process.returncode}; "
            f"finished are {', '.join(done) or 'none'}; go on with --resume"
        )
    if not (run.folder / "results.json").is_file():
        raise UserError(
            "a run with trainer.fast_dev_run leaves nothing that could be compared; leave it out "
            "(--trainer.max_steps 1 is as short)"
        )
    with written_whole(run.folder / "memory.txt") as part:
        part.write_text(f"{usage.ru_maxrss / 1024:.1f}\n")


def _costs(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
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
    add("µs a step outside the model", lambda run: run.diary.outside() * 1e6)
    add("MB of memory", lambda run: run.megabytes)
    return costs


def _lines(loop: Loop, config: Path, options: Sequence[str]) -> float:
    """Distinct lines of the loop's own package that two steps of training execute."""
    command = [sys.executable, "-m", "twinloop.comparison.lines", "fit", "--config", str(config)]
    done = subprocess.run(
        [*command, *options, "--loop", loop], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])
