"""The command line: `python -m twinloop COMMAND ...`, with user errors as one line."""

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
from twinloop.runs.stop import RESUME, Stopped, StoppedAtOnce, stopping_at_once


class Command(NamedTuple):
    """The entry of a command, `module:function`, and a line of help."""

    entry: str
    help: str


COMMANDS = {
    "fit": Command("fit:main", "train an experiment, and keep the run with its results"),
    "validate": Command("evaluate:validate", "the metrics of a checkpoint on val"),
    "test": Command("evaluate:test", "the metrics of a checkpoint on test"),
    "predict": Command("predict:main", "run a trained model on a folder of images"),
    "compare": Command("compare:main", "train by both loops, and compare the runs"),
    "parity": Command("parity:main", "run the proof of parity, and print its table"),
    "summary": Command("summary:main", "the layers of a network, their sizes and costs"),
    "convolutions": Command("convolutions:main", "figures, a page and a workbook of a network"),
    "cache": Command("cache:main", "list the decoded data sets, or remove them"),
    "new": Command("new:main", "start a new experiment, with its test"),
}
"""Every command; its module in `twinloop.cli` is imported when it is called."""
LOST = (
    "another process of this run has ended or does not respond; what was saved before is intact: "
    + RESUME
)


def main(args: list[str]) -> int:
    """Run a command; a user error ends in one line, and with `--debug` in a traceback.

    Returns:
        The exit status: 0, or 2 for an error in the command, a file, or the data.
    """
    keep_freed_memory()
    end_with_launcher(f"error: {LOST}")
    with _settings_restored():
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
        # Only the first process reports it: Lightning's launcher kills it if another one fails.
        if not is_first():
            return 0
        print(stopped)
        return stopped.status
    except StoppedAtOnce as stopped:
        if is_first():  # Ctrl-C reaches all processes
            print(stopped, file=sys.stderr)
        return stopped.status
    except Exception as error:
        message = LOST if peer_lost(error) else explain(error)
        if message is None or debug:
            traceback.print_exc()
        # A NotFiniteError ends all processes, and is reported by the first.
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
    module, _, function = COMMANDS[name].entry.partition(":")
    run = getattr(import_module(f"twinloop.cli.{module}"), function)
    return int(run(options))


def usage() -> str:
    """The help: a line for each command."""
    lines = [f"  {name:14}{command.help}" for name, command in COMMANDS.items()]
    head = "usage: python -m twinloop COMMAND ...   (COMMAND --help shows its options)"
    return "\n".join([head, "", *lines])


@contextmanager
def _settings_restored() -> Iterator[None]:
    """Restore global settings afterwards, for a process that runs several commands."""
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
    """Ignore a full disk or a deleted file, which TensorBoard's next write raises again."""
    ignored = (*OUT_OF_REACH, errno.ENOENT)
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in ignored):
        threading.__excepthook__(failed)


QUIET = ("pytorch.utilities.rank_zero", "fabric.utilities.seed", "fabric.utilities.distributed")
"""Loggers of Lightning that print tips."""
IGNORED = (
    "Glyph .* missing from font",  # a missing character is drawn as a box
    ".*LeafSpec.*is deprecated",  # an API of torch that Lightning uses
    ".*smaller than the logging interval",  # the metrics of an epoch are logged at its end
    "The `srun` command is available",  # not every process on a SLURM machine is one of its jobs
    "Checkpoint directory .* exists and is not empty",  # a run is resumed in its own folder
    "It is recommended to use .*sync_dist=True",  # a task synchronises its metrics itself
    ".*does not have many workers.*",  # batches are gathered whole from mapped memory
)
"""Warnings of libraries that do not apply here."""


def _quiet(*, debug: bool) -> None:
    if not debug:  # the place in the forward of an operation whose backward gave a NaN
        warnings.filterwarnings("ignore", message="Error detected in")
    for name in QUIET:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
