"""The command line: `python -m twinloop COMMAND ...`, where a user's mistake is one line."""

import errno
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import torch

from twinloop.cli.memory import keep_freed_memory
from twinloop.errors import OUT_OF_REACH, UserError, explain
from twinloop.finite import NotFiniteError
from twinloop.launched import end_with_launcher
from twinloop.processes import is_first, peer_lost
from twinloop.runs.stop import Stopped, StoppedAtOnce, stopping_at_once


class Command(NamedTuple):
    """Where a command is, `module:function`, and what it does."""

    place: str
    does: str


COMMANDS = {
    "fit": Command("cli.fit:main", "train an experiment, and keep the run with its results"),
    "validate": Command("cli.evaluate:validate", "the metrics of a checkpoint on val"),
    "test": Command("cli.evaluate:test", "the metrics of a checkpoint on test"),
    "predict": Command("cli.predict:main", "run a trained model on a folder of images"),
    "compare": Command("cli.compare:main", "train by both loops, and compare the runs"),
    "parity": Command("cli.parity:main", "run the whole proof, and print its table"),
    "summary": Command("cli.summary:main", "the layers of a network, their sizes and costs"),
    "convolutions": Command("cli.convolutions:main", "figures, a page and a workbook of a network"),
    "new": Command("cli.new:main", "start an experiment of your own, with its test"),
}
"""Every command; its module is imported when it is called."""
LOST = (
    "another process of this run has ended or does not answer; what was saved before is whole: "
    "resume with --ckpt_path last (make: RESUME=1)"
)


def main(args: list[str]) -> int:
    """Run a command; a user's mistake ends in one line, and with `--debug` in a traceback.

    Returns:
        The exit status: 0, or 2 for a mistake in the command, a file, or the data.
    """
    keep_freed_memory()
    end_with_launcher(f"error: {LOST}")
    with _settings_kept():
        return _main(args)


def _main(args: list[str]) -> int:
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    _quiet(debug=debug)
    threading.excepthook = _report_thread
    try:
        with stopping_at_once():
            return _run(args)
    except Stopped as stopped:
        # The first process speaks for all: Lightning's launcher would kill it if another ended so.
        if not is_first():
            return 0
        print(stopped)
        return stopped.status
    except StoppedAtOnce as stopped:
        if is_first():  # Ctrl-C reaches all processes, and one line says so
            print(stopped, file=sys.stderr)
        return stopped.status
    except Exception as error:
        message = LOST if peer_lost(error) else explain(error)
        if message is None or debug:
            traceback.print_exc()
        # What went wrong in one of several processes ends all, and is said by the first.
        if is_first() or not isinstance(error, NotFiniteError):
            print("error:", message or repr(error), file=sys.stderr)
        return 2 if message else 1


def _run(args: list[str]) -> int:
    """Run the command that `args` begins with."""
    name, *options = args or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}")
    module, _, function = COMMANDS[name].place.partition(":")
    run = getattr(import_module(f"twinloop.{module}"), function)
    return int(run(options))


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:14}{command.does}" for name, command in COMMANDS.items()]
    head = "usage: python -m twinloop COMMAND ...   (COMMAND --help shows its options)"
    return "\n".join([head, "", *lines])


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Have a process that runs several commands begin each with the settings of the first."""
    hook = threading.excepthook
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        threading.excepthook = hook
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Leave a full disk or a lost file to the main thread: TensorBoard's next write tells it."""
    told = (*OUT_OF_REACH, errno.ENOENT)
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in told):
        threading.__excepthook__(failed)


def _quiet(*, debug: bool) -> None:
    """Silence what libraries say to everyone: tips, advertisements, and advice that is not ours."""
    if not debug:  # where in the forward an operation was called that made a NaN in the backward
        warnings.filterwarnings("ignore", message="Error detected in")
    for name in (
        "pytorch.utilities.rank_zero",
        "fabric.utilities.seed",
        "fabric.utilities.distributed",
    ):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    # A letter that the figures' font lacks is drawn as a box.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    # Lightning asks torch in a way that torch is about to drop.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    # The metrics of an epoch are logged however few its batches are.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    # Where SLURM is installed, one process need not be a job of it.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # A run goes on in its own folder.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # A task's metrics talk to the other processes themselves before they are logged.
    warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")
    # Batches are gathered whole from mapped memory: worker processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
