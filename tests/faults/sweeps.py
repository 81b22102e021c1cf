"""Kills of whole sweeps, and what must hold afterwards.

`python -m tests.faults.sweeps --count 20` kills 20 sweeps of five trials, each at a moment that its
number and the seed decide, and resumes them by the same command. Then no trial is lost, none that
had ended is trained again, and all have the settings, values and weights of an uninterrupted sweep.
The results are kept in `tests/faults-of-sweeps.json`.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.__main__ import commit, nothing
from tests.faults.commands import EXPERIMENTS, LOOPS, calls, run
from tests.faults.left import broken_files
from tests.faults.moments import ANY_TIME, COMMITS, PHASES, Moment
from twinloop.comparison.differences import compare_tensors
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.record import flat
from twinloop.runs.results import PACKAGES

KILLED = (COMMITS, *(phase for phase in PHASES if phase != "decoding"), ANY_TIME)
SWEEP = """
pruner: {name: median, n_startup_trials: 1}
sampler: {name: tpe, n_startup_trials: 2}
trials: 5
settings:
  model.optimizer.lr: {low: 0.001, high: 0.1, log: true}
  model.network: [twinloop.models.MLP, twinloop.models.LessonClassifier]
  model.network.hidden: {low: 8, high: 32, step: 8, when: {model.network: twinloop.models.MLP}}
"""
TRIALS = """
    SELECT number, state, param_name, param_value FROM trials LEFT JOIN trial_params
    USING (trial_id) ORDER BY number, param_name
"""
VALUES = """
    SELECT number, step, intermediate_value, value FROM trials
    LEFT JOIN trial_intermediate_values USING (trial_id)
    LEFT JOIN trial_values USING (trial_id) ORDER BY number, step
"""


def sweep(loop: str, root: Path, cache: Path, *options: str) -> list[str]:
    """The arguments of a small sweep on digits in `root`/sweep."""
    root.mkdir(exist_ok=True)
    (root / "sweep.yml").write_text(SWEEP)
    return [
        *("sweep", "--config", str(EXPERIMENTS / "mlp.yaml"), "--sweep", str(root / "sweep.yml")),
        *("--folder", str(root / "sweep"), "--loop", loop, "--data.source", "digits"),
        *("--data.cache_dir", str(cache), "--trainer.default_root_dir", str(root)),
        *("--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2", *options),
    ]


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """What the study knows of its trials."""
    connection = sqlite3.connect(folder / "study.db")
    try:
        return [row for query in (TRIALS, VALUES) for row in connection.execute(query)]
    finally:
        connection.close()


def ended(folder: Path) -> dict[str, int]:
    """The times at which the trials that have ended well wrote their results."""
    found = folder.glob("trial-*/results.json")
    return {str(path): path.stat().st_mtime_ns for path in found}


def differences(folder: Path, whole: Path) -> list[str]:
    """Where the trials of two sweeps differ."""
    found = [] if rows(folder) == rows(whole) else [f"{rows(folder)}, not {rows(whole)}"]
    for path in sorted(whole.glob("trial-*/checkpoints/last.ckpt")):
        one, two = (flat(read_checkpoint(p / path.relative_to(whole))) for p in (folder, whole))
        for tensors in (one, two):
            for name in [n for n in tensors if n.endswith(("/seconds", "/best.ckpt"))]:
                del tensors[name]
        found += compare_tensors(str(path.relative_to(whole)), one, two)
    return found


def uninterrupted(root: Path, cache: Path) -> dict[str, int]:
    """A sweep in `root` whose calls of each phase are counted.

    Raises:
        AssertionError: it does not end well.
    """
    made = run(sweep("homemade", root, cache), root / "printed", counting=True)
    assert made.status == 0, made.printed
    states = {row[1] for row in rows(root / "sweep") if isinstance(row[1], str)}
    assert states == {"COMPLETE", "PRUNED"}, states  # or the kills would prove less
    return calls(root / "printed")[0]


def kill(whole: Path, moment: Moment, loop: str, root: Path, cache: Path) -> bool:
    """Kill a sweep at `moment`, resume it, and compare it; returns whether it was killed.

    Raises:
        AssertionError: a trial is lost, was run twice, or is another one.
    """
    command = sweep(loop, root, cache)
    killed = run(command, root / "killed", moment)
    before = ended(root / "sweep")
    assert not (broken := broken_files(root)), broken
    resumed = run(command, root / "resumed")
    assert resumed.status == 0, resumed.printed
    after = ended(root / "sweep")
    assert {path: after[path] for path in before} == before, "a trial was run twice"
    assert not (found := differences(root / "sweep", whole)), found
    return killed.status == -signal.SIGKILL


def campaign(path: Path, seed: int, count: int) -> bool:
    """Kill `count` sweeps, and keep the results in `path`; returns whether all were resumed."""
    about: dict[str, Any] = {
        "commit": commit(),
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in (*PACKAGES, "optuna")},
    }
    found = about | nothing()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counted = uninterrupted(folder / "whole", folder / "cache")
        for number in range(count):
            phase = KILLED[number % len(KILLED)]
            loop = LOOPS[(number + number // len(KILLED)) % 2]
            drawn = random.Random(f"{seed} {number}")
            call = drawn.randint(1, 6_000 if phase == ANY_TIME else counted[phase])
            moment = Moment(phase, call, (signal.SIGKILL,))
            about_it, came = f"{number}: {phase}, {loop}, call {call}", "passed"
            root = folder / str(number)
            try:
                reached = kill(folder / "whole" / "sweep", moment, loop, root, folder / "cache")
                came = "passed" if reached else "not reached"
            except AssertionError as error:
                came = "failed"
                found["failures"][str(number)] = f"{about_it}: {error}"
            cell = found["cells"].setdefault(
                f"{phase}, {loop}", dict.fromkeys(("tried", "passed", "failed", "not reached"), 0)
            )
            for counts in (found, cell):
                counts["tried"] += 1
                counts[came] += 1
            print(f"{about_it}: {came}", flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            shutil.rmtree(root, ignore_errors=True)
    return bool(found["passed"] and not found["failed"])


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser("python -m tests.faults.sweeps", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="how many sweeps to kill")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    results = Path(__file__).parents[1] / "faults-of-sweeps.json"
    parser.add_argument("--results", type=Path, default=results)
    wanted = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return 0 if campaign(wanted.results, wanted.seed, wanted.count) else 1


if __name__ == "__main__":
    sys.exit(main())
