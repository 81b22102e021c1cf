"""Signals and lifetime of a process that Lightning's launcher started, until it has joined.

Imports nothing slow, because all of this must be in effect from the first moment.
"""

import os
import sys
import threading
import time
from types import FrameType

LAUNCHED = os.environ.get("LOCAL_RANK", "0") != "0" and "RANK" not in os.environ
"""Whether this is such a process; torchrun sets RANK too."""
_PARENT = os.getppid()


def leave_to_first(number: int, _: FrameType | None) -> None:
    """Ignore a signal that all processes get: the first of them stops all after the same step.

    It handles the signal as soon as this process has joined it, and no sooner, because torch's
    rendezvous is not interrupted. Lightning would kill it if this process ended before that.
    """


def end_with_launcher(line: str) -> None:
    """Print `line` and end with status 2 if the launching process ends before they have joined.

    Otherwise this process would wait for it until torch's rendezvous times out, after half an hour.
    So it does on Windows, where the parent of a process keeps its number after its end.
    """
    from torch import distributed

    def watch() -> None:
        while os.getppid() == _PARENT:
            if distributed.is_initialized():
                return  # from here on a lost process raises an error
            time.sleep(0.5)
        print(line, file=sys.stderr, flush=True)
        os._exit(2)

    if LAUNCHED:
        threading.Thread(target=watch, daemon=True).start()
