"""Execute a command: signals and warnings while it runs, and its errors as one line."""

import errno
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch

from twinloop.cli.memory import keep_freed_memory
from twinloop.errors import OUT_OF_REACH, explain
from twinloop.finite import NotFiniteError
from twinloop.launched import end_with_launcher
from twinloop.processes import is_first, peer_lost
from twinloop.runs.stop import RESUME, Stopped, StoppedAtOnce, stopping_at_once

LOST = (
    "another process of this run has ended or does not respond; what was saved before is intact: "
    + RESUME
)


def execute(entry: str, options: list[str], *, debug: bool) -> int:
    """Call `entry`, a `module:function` of `twinloop.cli`, and return the exit status."""
    keep_freed_memory()
    end_with_launcher(f"error: {LOST}")
    with _settings_restored():
        _quiet(debug=debug)
        threading.excepthook = _report_thread
        return _execute(entry, options, debug=debug)


def _execute(entry: str, options: list[str], *, debug: bool) -> int:
    module, _, function = entry.partition(":")
    try:
        with stopping_at_once():
            return int(getattr(import_module(f"twinloop.cli.{module}"), function)(options))
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
