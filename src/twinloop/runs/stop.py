"""Stopping a run without losing it: SIGTERM or one Ctrl-C, save, stop."""

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
GO_ON = "go on with --ckpt_path last (make: RESUME=1), or start again if nothing was saved yet"


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal has asked the run to stop, and it is saved; `status` is the exit status for that."""

    def __init__(self, by: signal.Signals, where: str, path: Path) -> None:
        super().__init__(
            f"stopped by {by.name} {where}, saved in {path}; "
            "go on with --ckpt_path last (make: RESUME=1)"
        )
        self.status = 128 + by


class StoppedAtOnce(BaseException):
    """A signal has ended the command where it was; `status` is the exit status for that.

    It is no KeyboardInterrupt, on which Lightning would end the process itself.
    """

    def __init__(self, by: signal.Signals, advice: str = GO_ON) -> None:
        super().__init__(f"stopped by {by.name}; what was saved before is whole: {advice}")
        self.by = by
        self.status = 128 + by


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C raise `StoppedAtOnce`, except in a process yet to join."""

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
    """Within it SIGTERM and the first Ctrl-C only leave word in `received`.

    A second Ctrl-C ends the run at once, as the first one does elsewhere.
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
        """Within it, take the signals back from whoever else has taken them since."""
        for number in self._before:
            signal.signal(number, self._receive)

    def agreed(self) -> signal.Signals | None:
        """The signal that has come to any of the processes that train together.

        All of them have to ask at the same places, so that they stop after the same step.
        """
        number = largest(int(self.received or 0))
        self.received = signal.Signals(number) if number else None
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise StoppedAtOnce(signal.SIGINT)
        self.received = signal.Signals(number)
        # The signal may have come inside a print, which does not let another one in.
        with suppress(OSError):
            os.write(1, b"stopping after this step; Ctrl-C again stops at once\n")
