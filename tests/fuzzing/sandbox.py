"""Where a broken or hostile file is tried: a folder in which only runs may appear."""

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from tests.commands import STOPPED, stop_at
from tests.faults.left import broken_files, missing, newest, parts
from tests.fuzzing.watch import Watch
from twinloop.cli import main

SECONDS = 10
"""How long a command may take for any input, on one core; each trains a few batches, and reports.

It may wait six times as long, since others may want the core.
"""
MEGABYTES = 1000
"""How much more memory a command may have at any time than there was before."""
MLP = "experiments/mlp.yaml"
TINY = ("--data.source", "tiny", "--data.batch_size", "8")
SHORT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "2"),
)
"""Little to train, and all that a run leaves."""
LONGER = ("--trainer.max_epochs", "3", "--trainer.limit_train_batches", "3")
"""Something to go on with; a loop stops for a signal between two batches."""
MOMENTS = {"between epochs": (0, 3), "inside an epoch": (1, 2), "at the end": None}
"""Epoch and batch in which a signal came, for each of the checkpoints to begin with."""
KEY = (
    r"error: (data|model|trainer)\.\w+|error: train row \d+: |"
    r"error: (the loss|[\w.]+) is (nan|-?inf|not finite)\b"
)
"""What locates a mistake that the command line may have made too, is in a row, or in a step."""
NAMES = (
    "\n",
    "\x1b[2J",
    "../../out",
    "..",
    "a b",
    "=1+1",
    "[/red]",
    "$\\frac$",
    "\u202e",
    "ü",
    "-x",
)
"""Names that a terminal, a path, a spreadsheet, rich's markup or a figure would take amiss."""
Draw = Callable[[st.SearchStrategy[Any]], Any]
"""Draws a value of a strategy."""


@dataclass(frozen=True)
class Case:
    """A command, the file it must name where it refuses, and what it prints where it does not."""

    command: list[str]
    file: Path | str
    prints: str | None = None
    or_key: str = r"(?!)"
    """What may be named in place of the file: a key of it, which the command line may have too."""
    refused: bool = False
    """Whether there is no way to do what was asked."""


class Sandbox:
    """A folder with a trained model in it; only its `lightning_logs` may change."""

    def __init__(self, top: Path) -> None:
        top = top.resolve()
        self.work = top / "deep" / "inside" / "work"
        self.files = top / "files"
        self.trained = top / "trained"
        self.logs = self.work / "lightning_logs"
        self.top = top
        self.work.mkdir(parents=True)
        self.files.mkdir()
        self.trained.mkdir()
        experiments = Path(__file__).resolve().parents[2] / "experiments"
        (self.work / "experiments").symlink_to(experiments)
        for number in range(40):
            path = self.work / "tiny" / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * (1 + number % 2) + number
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        self.number = 0
        self.checkpoints: dict[tuple[str, str], Path] = {}
        self.tested = ""
        # Where the Hub's data sets go is decided when the library is imported.
        caches = (os.environ["TWINLOOP_CACHE"], datasets.config.HF_CACHE_HOME)
        self.watch = Watch((self.files, self.logs, *map(Path, caches)), self.files)

    def train(self) -> None:
        """Checkpoints of each loop at each moment, and what `test` prints of one by Lightning."""
        with self.inside():
            for loop in ("lightning", "homemade"):
                for moment, place in MOMENTS.items():
                    folder = self.trained / f"{loop} {moment}"
                    command = ["fit", "--config", MLP, *TINY, *LONGER, "--loop", loop]
                    with pytest.MonkeyPatch.context() as patch:
                        if place:
                            stop_at(*place, patch)
                        status, _, err = run([*command, "--run", str(folder)])
                    assert status == (STOPPED if place else 0), err
                    self.checkpoints[loop, moment] = folder / "checkpoints" / "last.ckpt"
            path = str(self.checkpoints["lightning", "at the end"])
            printed = run(["test", "--config", MLP, *TINY, "--ckpt_path", path])[1]
            self.tested = printed.partition("\n")[2]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be there, as a user would be at the top of a checkout."""
        with contextlib.chdir(self.work):
            yield

    def new(self, name: str = "") -> Path:
        """The path of a new file or folder."""
        self.number += 1
        folder = self.files / str(self.number)
        folder.mkdir()
        return folder / name

    def outside(self) -> set[Path]:
        """Everything but inputs and runs."""
        mine = (self.files, self.logs, self.work / "experiments")
        return {
            path
            for path in self.top.rglob("*")
            if not any(path == folder or folder in path.parents for folder in mine)
        }

    def clear(self, keep: Path | None) -> None:
        """Remove an input and its runs, which are kept in the folder `keep`, if any."""
        for folder in (self.logs, self.files):
            if keep:
                shutil.copytree(folder, keep / folder.name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)


Outcome = tuple[int | str, str, str]
"""The status of a command, or what it raised, and what it wrote to stdout and to stderr."""


def run(command: list[str]) -> Outcome:
    """Run a command in this process, which is much faster than to start one."""
    out, err = io.StringIO(), io.StringIO()

    def late(*_: Any) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    clocks = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
    before = {number: signal.signal(number, late) for number in clocks.values()}
    for clock, seconds in zip(clocks, (SECONDS, 6 * SECONDS), strict=True):
        signal.setitimer(clock, seconds, 1)  # and again, where the first was caught
    status: int | str
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            little_memory(),
        ):
            # A checkpoint of elsewhere names the folder of its own run.
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            status = main(command)
    except BaseException as error:
        status = "".join(traceback.format_exception_only(error)).strip()
    finally:
        for clock, number in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Within it, this process may have so much more memory than it has, and fails where it asks.

    Raises:
        MemoryError: it has had too much in between.
    """
    Path("/proc/self/clear_refs").write_text("5")  # begin anew with the most at any time
    before = _kilobytes("VmRSS")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # Addresses are asked for that are never used, so this is only what saves the machine.
    most = _kilobytes("VmSize") * 1024 + 8 * MEGABYTES * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    more = (_kilobytes("VmHWM") - before) // 1024
    if more > MEGABYTES:
        raise MemoryError(f"had {more} MB more than before")


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)[0])


def run_alone(command: list[str]) -> Outcome:
    """The same of a process of its own, which also takes the time to start."""
    whole = [sys.executable, "-m", "twinloop", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def fault(
    case: Case,
    sandbox: Sandbox,
    run: Callable[[list[str]], Outcome] = run,
    keep: Path | None = None,
) -> tuple[str, str]:
    """How a case ended, and what was wrong with that: nothing, if all is well.

    Where something was wrong, input and runs are kept in the folder `keep`, if there is one.
    """
    before = sandbox.outside()
    broken_before = broken_files(sandbox.logs)
    with sandbox.inside(), sandbox.watch.watching() as seen:
        outcome = run(case.command)
    new = sandbox.outside() - before
    how, what = "wrong", ""
    if new or seen:
        what = f"does what it should not: {sorted(map(str, new))} {sorted(seen)}"
    else:
        how, what = verdict(case, outcome)
        broken = [file for file in broken_files(sandbox.logs) if file not in broken_before]
        broken += [f"{part} is left" for part in parts(sandbox.logs)]
        if how == "done" and case.command[0] == "fit":
            runs = list(sandbox.logs.glob("*/version_*"))
            broken += [f"no {name}" for name in missing(newest(sandbox.work))] if runs else ["none"]
        if broken and how != "wrong":
            how, what = "wrong", f"leaves what is not whole: {broken}"
    sandbox.clear(keep if how == "wrong" else None)
    return how, what


def verdict(case: Case, outcome: Outcome) -> tuple[str, str]:
    """The same of what a command said and returned."""
    status, out, err = outcome
    if status == 0:
        if case.refused:
            return "wrong", "was not refused"
        if err:
            return "wrong", f"warns: {err}"
        if case.prints is not None and case.prints not in out:
            return "wrong", f"prints {out!r}"
        return "done", ""
    if status == 1 and case.command[0] == "compare" and "DIFFERENT" in out and not err:
        return "done", ""
    if status != 2:
        return "wrong", f"status {status}: {err[-1500:]}"
    # Below its line an error may list what it is about.
    listed = re.fullmatch(r"error: [^\n]+\n(  [^\n]+\n)*", err)
    if not listed or not all(map(str.isprintable, err.splitlines())):
        return "wrong", f"no single line: {err[-1500:]!r}"
    if str(case.file) not in err and not re.match(case.or_key, err):
        return "wrong", f"does not name {case.file}: {err}"
    return "refused", ""
