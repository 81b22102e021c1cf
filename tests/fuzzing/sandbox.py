"""Where a broken or hostile file is tried: a folder in which only runs may appear."""

import contextlib
import io
import re
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from twinloop.cli import main

SECONDS = 10
"""How long a command may take for any input; each trains two batches at the most."""
MLP = "experiments/mlp.yaml"
SHORT = ("--trainer.fast_dev_run", "1")
KEY = r"error: (data|model|trainer)\.\w+|error: train row \d+: "
"""What locates a mistake that the command line may have made too, or that is in a row."""
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
        self.work = top / "deep" / "inside" / "work"
        self.files = top / "files"
        self.top = top
        self.work.mkdir(parents=True)
        self.files.mkdir()
        experiments = Path(__file__).resolve().parents[2] / "experiments"
        (self.work / "experiments").symlink_to(experiments)
        self.number = 0
        self.checkpoints: dict[str, Path] = {}
        self.tested = ""

    def train(self) -> None:
        """A run of each loop, and what `test` prints of the one by Lightning."""
        digits = ["--data.source", "digits", "--trainer.max_epochs", "2"]
        few = ["--trainer.limit_train_batches", "3", "--model.schedule", "null"]
        with self.inside():
            for loop in ("lightning", "homemade"):
                command = ["fit", "--config", MLP, *digits, *few, "--loop", loop]
                assert run([*command, "--run", f"lightning_logs/mlp/version_0-{loop}"])[0] == 0
                run_folder = self.work / "lightning_logs" / "mlp" / f"version_0-{loop}"
                self.checkpoints[loop] = run_folder / "checkpoints" / "last.ckpt"
            path = str(self.checkpoints["lightning"])
            self.tested = run(
                ["test", "--config", MLP, "--data.source", "digits", "--ckpt_path", path]
            )[1].partition("\n")[2]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be there, as a person would be at the top of a checkout."""
        with contextlib.chdir(self.work):
            yield

    def new(self, name: str = "") -> Path:
        """The path of a new file or folder."""
        self.number += 1
        folder = self.files / str(self.number)
        folder.mkdir()
        return folder / name

    def outside(self) -> set[Path]:
        """Everything but inputs, runs and the cache."""
        mine = (self.files, self.work / "lightning_logs", self.work / "experiments")
        return {
            path
            for path in self.top.rglob("*")
            if not any(path == folder or folder in path.parents for folder in mine)
        }


Outcome = tuple[int | str, str, str]
"""The status of a command, or what it raised, and what it wrote to stdout and to stderr."""


def run(command: list[str]) -> Outcome:
    """Run a command in this process, which is much faster than to start one."""
    out, err = io.StringIO(), io.StringIO()

    def late(*_: Any) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    status: int | str
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            # A short run has no callbacks and no folder of its own, and says so where it goes on.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            status = main(command)
    except BaseException as error:
        status = "".join(traceback.format_exception_only(error)).strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, out.getvalue(), err.getvalue()


def run_alone(command: list[str]) -> Outcome:
    """The same of a process of its own, which also takes the time to start."""
    whole = [sys.executable, "-m", "twinloop", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def fault(
    case: Case, sandbox: Sandbox, run: Callable[[list[str]], Outcome] = run
) -> tuple[str, str]:
    """How a case ended, and what was wrong with that: nothing, if all is well."""
    before = sandbox.outside()
    with sandbox.inside():
        status, out, err = run(case.command)
    new = sandbox.outside() - before
    if new:
        return "wrong", f"writes outside: {sorted(map(str, new))}"
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
    if not re.fullmatch(r"error: [^\n]+\n", err) or not err[:-1].isprintable():
        return "wrong", f"no single line: {err[-1500:]!r}"
    if str(case.file) not in err and not re.match(case.or_key, err):
        return "wrong", f"does not name {case.file}: {err}"
    return "refused", ""
