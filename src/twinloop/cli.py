"""The command line: `python -m twinloop COMMAND ...`, where a person's mistake is one line.

`fit`, `validate`, `test` and `predict` are in `twinloop.commands`; `summary` and `convolutions`
take the same options, see `twinloop.showcase`; `new NAME` starts an experiment of one's own, see
`twinloop.new`; `compare` and `parity` are in `twinloop.comparison`.
"""

import errno
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from twinloop.commands import FIRST_PROCESS, TwinloopCLI
from twinloop.errors import OUT_OF_REACH, explain
from twinloop.finite import NotFiniteError
from twinloop.memory import keep_freed_memory
from twinloop.processes import peer_lost
from twinloop.runs.stop import Stopped, StoppedAtOnce, stopping_at_once

LOST = (
    "another process of this run has ended or does not answer; what was saved before is whole: "
    "resume with --ckpt_path last (make: RESUME=1)"
)


def main(args: list[str]) -> int:
    """Run a command; a person's mistake ends in one line, and with `--debug` in a traceback.

    Returns:
        The exit status: 0, or 2 for a mistake in the command, a file, or the data.
    """
    keep_freed_memory()
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
        if not FIRST_PROCESS:
            return 0
        print(stopped)
        return stopped.status
    except StoppedAtOnce as stopped:
        if FIRST_PROCESS:  # Ctrl-C reaches all processes, and one line says so
            print(stopped, file=sys.stderr)
        return stopped.status
    except Exception as error:
        message = LOST if peer_lost(error) else explain(error)
        if message is None or debug:
            traceback.print_exc()
        # What went wrong in one of several processes ends all, and is said by the first.
        if FIRST_PROCESS or not isinstance(error, NotFiniteError):
            print("error:", message or repr(error), file=sys.stderr)
        return 2 if message else 1


def _run(args: list[str]) -> int:
    """Run the command that `args` begins with."""
    if args == ["parity"]:
        from twinloop.comparison import parity

        return parity.main()
    if args[:1] == ["compare"]:
        from twinloop.comparison import compare

        return compare.main(args[1:])
    if args[:1] == ["new"]:
        from twinloop import new

        return new.main(args[1:])
    if args[:1] in (["summary"], ["convolutions"]):
        from twinloop import showcase  # draws with much that the others need not load

        return showcase.run(args)
    TwinloopCLI(args)
    return 0


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
