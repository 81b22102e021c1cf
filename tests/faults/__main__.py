"""Fault injection into real commands, and what must hold afterwards.

`python -m tests.faults --count 160` interrupts 160 runs of `python -m twinloop fit`: each receives
signals at a moment that its number and the seed decide. What it has left is checked, it is resumed
by `--ckpt_path last`, and must end with the bits of an uninterrupted run. The results are kept in
`tests/faults.json`; a campaign of the same commit and seed is continued. `--again 7 9` interrupts
runs 7 and 9 of a finished campaign as before, at the present commit.

Half of the runs and more are of two processes, which torchrun or Lightning's launcher starts.
SIGTERM goes to the launcher, Ctrl-C to all processes of its group, and SIGKILL to one of the two.
"""

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.commands import EXPERIMENTS, KINDS, VALIDATIONS
from tests.faults.inject import (
    NotReachedError,
    Whole,
    first_call,
    inject,
    last_call,
    uninterrupted,
)
from tests.faults.moments import ANY_TIME, PHASES, SIGNALS, Moment
from twinloop.runs.results import PACKAGES


def commit() -> str:
    """The commit of the code that is tested, '+' where it was changed since."""
    git = ["git", "-C", str(EXPERIMENTS)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../src"], check=False)
    return head.stdout.strip() + "+" * changed.returncode


class Campaign:
    """Runs in a folder, each interrupted as its number and the seed decide, and the results."""

    def __init__(self, folder: Path, seed: int, starts: list[str], found: dict[str, Any]) -> None:
        self.folder, self.seed, self.found = folder, seed, found
        self.wholes: dict[tuple[str, str, str], Whole | str] = {}
        kinds = [kind for kind in KINDS if kind[0] in starts]
        self.cells = list(itertools.product([*PHASES, ANY_TIME], SIGNALS, kinds))
        random.Random(seed).shuffle(self.cells)  # so that the first few are of every kind

    def whole(self, start: str, loop: str, validation: str) -> Whole:
        """The uninterrupted run of these settings, made where it is asked for first.

        Raises:
            AssertionError: even that one does not end well.
        """
        settings = (start, loop, validation)
        if settings not in self.wholes:
            root = self.folder / f"whole {len(self.wholes)}"
            try:
                self.wholes[settings] = uninterrupted(root, self.folder / "cache", *settings)
            except AssertionError as error:
                self.wholes[settings] = str(error)
        whole = self.wholes[settings]
        if isinstance(whole, str):
            raise AssertionError(f"uninterrupted, and does not end well: {whole}")
        return whole

    def draw(self, number: int) -> tuple[str, str, str, str, str]:
        """Who starts the run, whose loop it is, when it validates, which phase and signals."""
        phase, signals, (start, loop) = self.cells[number % len(self.cells)]
        validation = random.Random(f"{self.seed} {number} when").choice(list(VALIDATIONS))
        return start, loop, validation, phase, signals

    def moment(self, number: int, whole: Whole, phase: str, signals: str) -> Moment:
        """When the run is interrupted: every call of the uninterrupted run is equally likely."""
        drawn = random.Random(f"{self.seed} {number}")
        rank: int | None = None  # whichever decodes
        if phase == ANY_TIME:
            rank = drawn.randrange(len(whole.calls))
        elif phase != "decoding":
            rank = drawn.choice(whole.ranks_of(phase))
        call = drawn.randint(first_call(phase), last_call(whole, phase, rank))
        return Moment(phase, call, SIGNALS[signals], rank)

    def inject(self, number: int) -> None:
        """Interrupt the run of that number, and count it as passed, failed or not reached."""
        start, loop, validation, phase, signals = self.draw(number)
        cell = self.found["cells"].setdefault(
            f"{phase}, {signals}, {loop}, {start}",
            dict.fromkeys(("tried", "passed", "failed", "not reached"), 0)
            | {"seconds to stop": 0.0},
        )
        about = f"{number}: {loop}, {start}, validation {validation}, {phase}, {signals}"
        came = "passed"
        try:
            whole = self.whole(start, loop, validation)
            moment = self.moment(number, whole, phase, signals)
            about += f", call {moment.call} of process {moment.rank}"
            ended = inject(whole, moment, self.folder / str(number))
            cell["seconds to stop"] = max(cell["seconds to stop"], round(ended.seconds, 2))
        except NotReachedError:
            came = "not reached"
            self.found["late"].append(about)
        except AssertionError as error:
            came = "failed"
            self.found["failures"][str(number)] = f"{about}: {error}"
        for counts in (self.found, cell):
            counts["tried"] += 1
            counts[came] += 1
        print(f"{about}: {came}", flush=True)
        shutil.rmtree(self.folder / str(number), ignore_errors=True)


def nothing() -> dict[str, Any]:
    """The results of no run."""
    counts = dict.fromkeys(("tried", "passed", "failed", "not reached"), 0)
    return counts | {"cells": {}, "failures": {}, "late": []}


def again(path: Path, numbers: list[int]) -> bool:
    """Interrupt these runs of the campaign in `path` again, and keep what came out beside it.

    Returns:
        Whether all of them passed.
    """
    kept: dict[str, Any] = json.loads(path.read_text())
    found = nothing()
    with tempfile.TemporaryDirectory() as name:
        runs = Campaign(Path(name), kept["seed"], kept["starts"], found)
        for number in numbers:
            runs.inject(number)
    kept.setdefault("again", []).append({"commit": commit(), "numbers": numbers} | found)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return bool(found["passed"] == len(numbers))


def campaign(path: Path, seed: int, count: int, seconds: float, starts: list[str]) -> bool:
    """Interrupt runs until there are `count`, or no time is left; keep the results in `path`.

    Returns:
        Whether some were interrupted, and all of them passed.
    """
    started = time.monotonic()
    about = {
        "commit": commit(),
        "seed": seed,
        "starts": starts,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if {name: found.get(name) for name in about} != about:
        found = about | nothing()
    with tempfile.TemporaryDirectory() as name:
        runs = Campaign(Path(name), seed, starts, found)
        while found["tried"] < count and time.monotonic() - started < seconds:
            runs.inject(found["tried"])
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{found['tried']} runs: {found['passed']} were interrupted and passed, "
        f"{found['failed']} failed, {found['not reached']} had ended before their moment: {path}"
    )
    return bool(found["passed"] > 0 and not found["failed"])


def main() -> int:
    """Run the campaign that the command line asks for."""
    starts = list(dict.fromkeys(start for start, _ in KINDS))
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=160, help="how many runs to interrupt")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--starts", nargs="+", choices=starts, default=starts)
    parser.add_argument("--again", nargs="+", type=int, help="interrupt these runs again")
    results = Path(__file__).parents[1] / "faults.json"
    parser.add_argument("--results", type=Path, default=results)
    wanted = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if wanted.again:
        return 0 if again(wanted.results, wanted.again) else 1
    passed = campaign(wanted.results, wanted.seed, wanted.count, wanted.seconds, wanted.starts)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
