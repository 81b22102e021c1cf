"""What a process does that Lightning's launcher has started, until it joins the one that did.

Nothing that takes long is imported: all of this has to hold from the first moment.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

LAUNCHED = os.environ.get("LOCAL_RANK", "0") != "0" and "RANK" not in os.environ
"""Whether this is such a process; torchrun gives every process a RANK too."""
_PARENT = os.getppid()
_received: list[int] = []


def leave_to_first(number: int, _: FrameType | None) -> None:
    """Handle a signal that all processes get: the first of them stops all after the same step.

    A second Ctrl-C ends each of them at once. Here that is no error: Lightning would kill the first
    process, which has to say what happened, because of the exit status of another one.
    """
    if number in _received and number == signal.SIGINT:
        os._exit(0)
    _received.append(number)


def end_with_launcher(line: str) -> None:
    """Print `line` and end with status 2 if what has launched this process ends before they join.

    This process would wait for the other one, which somebody has killed, until the half hour of
    torch's rendezvous is over.
    """
    from torch import distributed

    def watch() -> None:
        while os.getppid() == _PARENT:
            if distributed.is_initialized():
                return  # from here on its loss is an error
            time.sleep(0.5)
        print(line, file=sys.stderr, flush=True)
        os._exit(2)

    if LAUNCHED:
        threading.Thread(target=watch, daemon=True).start()
