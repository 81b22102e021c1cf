"""Save and stop a run on SIGTERM or Ctrl-C."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from torch import distributed

from twinloop.launched import LAUNCHED, leave_to_first
from twinloop.processes import largest

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESUME = "resume with --ckpt_path last (make: RESUME=1)"


class Stopped(Exception):  # noqa: N818 - not an error: the user has stopped the run
    """A signal has stopped the run after it was saved; `status` is the exit status."""

    def __init__(self, by: signal.Signals, where: str, path: Path) -> None:
        super().__init__(f"stopped by {by.name} {where}, saved in {path}; {RESUME}")
        self.by = by
        self.status = 128 + by


class StoppedAtOnce(BaseException):
    """A signal has ended the command without saving; `status` is the exit status.

    It is not a KeyboardInterrupt, on which Lightning would end the process itself.
    """

    def __init__(
        self,
        by: signal.Signals,
        advice: str = f"{RESUME}, or start again if nothing was saved yet",
    ) -> None:
        super().__init__(f"stopped by {by.name}; what was saved before is intact: {advice}")
        self.by = by
        self.status = 128 + by


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise `StoppedAtOnce` on SIGTERM and Ctrl-C, except in a process that has yet to join."""

    def stop(number: int, frame: FrameType | None) -> None:
        if LAUNCHED and not distributed.is_initialized():
            leave_to_first(number, frame)
        else:
            raise StoppedAtOnce(signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """A context in which SIGTERM and the first Ctrl-C are only noted, in `received`.

    A second Ctrl-C raises `StoppedAtOnce`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Install the handlers, also where a library has replaced them in this context."""
        for number in self._before:
            signal.signal(number, self._receive)

    def agreed(self) -> signal.Signals | None:
        """The signal that any of the processes has received.

        A collective call: all processes make it at the same points, and stop after the same step.
        """
        number = largest(int(self.received or 0))
        self.received = signal.Signals(number) if number else None
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise StoppedAtOnce(signal.SIGINT)
        self.received = signal.Signals(number)
        # The signal may interrupt a print, which is not reentrant.
        with suppress(OSError):
            os.write(1, b"stopping after this step; Ctrl-C again stops at once\n")
