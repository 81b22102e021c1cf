"""When a fault is injected, and which: the calls at which a process notices its moment.

Imported by processes that have not begun yet, so it loads nothing that they would not.
"""

import errno
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

IMAGES = 1797
PAUSE = 2.0
"""Seconds that each call of a phase takes after the signal: a command that waits is found out."""
BETWEEN = 0.3
"""Seconds from one Ctrl-C to the next."""
ENVIRONMENT = "TWINLOOP_FAULTS"
"""The variable that tells processes of other launchers what to wait for, and tells them apart."""

Hit = Callable[[], None]


def _at_images(hit: Hit) -> None:
    from twinloop.data import decode

    original = decode.to_array

    def to_array(*args: Any) -> Any:
        hit()
        return original(*args)

    decode.to_array = to_array  # type: ignore[assignment]


def _at_batches(hit: Hit, *, training: bool) -> None:
    from twinloop.data.batches import Batch, Batches

    original = Batches.__iter__

    def gather(self: Batches) -> Iterator[Batch]:
        for batch in original(self):
            if self.shuffle == training:
                hit()
            yield batch

    Batches.__iter__ = gather  # type: ignore[method-assign]


def _inside_checkpoints(hit: Hit) -> None:
    import torch

    original = torch.save

    def save(content: Any, file: Any, **options: Any) -> None:
        if options:  # a tensor on its way to another process
            original(content, file, **options)
            return
        whole = BytesIO()
        original(content, whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        hit()
        file.write(whole.getvalue()[half:])

    torch.save = save  # type: ignore[assignment]


def _before_renaming_checkpoints(hit: Hit) -> None:
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if self.suffixes == [".ckpt", ".part"]:
            hit()
        return original(self, target)

    Path.replace = replace  # type: ignore[assignment,method-assign]


def _inside_results(hit: Hit) -> None:
    original = Path.write_text

    def write_text(self: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if self.name != "results.json.part":
            return original(self, text, *args, **kwargs)
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            hit()
            return file.write(text[len(text) // 2 :])

    Path.write_text = write_text  # type: ignore[assignment,method-assign]


def _at_commits(hit: Hit) -> None:
    """Before and after each: what was written is lost, or is there and nobody has acted on it."""
    with suppress(ImportError):  # the extra `sweep`
        from sqlalchemy.orm import Session

        original = Session.commit

        def commit(self: Any) -> None:
            hit()
            original(self)
            hit()

        Session.commit = commit


PHASES: dict[str, Callable[[Hit], None]] = {
    "decoding": _at_images,
    "first batch": lambda hit: _at_batches(hit, training=True),
    "training": lambda hit: _at_batches(hit, training=True),
    "validation": lambda hit: _at_batches(hit, training=False),
    "writing a checkpoint": _inside_checkpoints,
    "renaming a checkpoint": _before_renaming_checkpoints,
    "writing results.json": _inside_results,
}
"""How a command is made to notice each call of a phase; val and test are read at the end too."""
COMMITS = "writing to the study"
EVERY = PHASES | {COMMITS: _at_commits}
"""The same, with what only sweeps do."""
ANY_TIME = "any time"
"""A phase whose calls are milliseconds, counted from outside."""
SIGNALS = {
    "SIGTERM": (signal.SIGTERM,),
    "Ctrl-C": (signal.SIGINT,),
    "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
    "SIGKILL": (signal.SIGKILL,),
}
Send = Callable[[int], None]
"""Sends a signal to whom it is for."""
MODULES = {"twinloop", "twinloop.__main__"}
"""What comes after -m where a user starts the command, and where Lightning does."""


@dataclass(frozen=True)
class Moment:
    """The `call`-th call of a phase, at which a command sends `signals` to itself.

    Without signals the disk is full from that call on. Of several processes it is the `rank`-th
    one whose calls count; with None, whichever makes the call first.
    """

    phase: str
    call: int
    signals: tuple[int, ...] = ()
    rank: int | None = 0

    def send(self, send: Send) -> None:
        """Send the signals one after the other, for two at once may come as one."""
        for number, name in enumerate(self.signals):
            time.sleep(BETWEEN * bool(number))
            with suppress(ProcessLookupError):  # the one before has ended it
                send(name)

    def arm(self, sent: Path, send: Send) -> None:
        """Wait for the moment in this process, and keep in the file `sent` when it was."""
        calls = itertools.count(1)
        mine = False

        def hit() -> None:
            nonlocal mine
            call = next(calls)
            if call >= self.call and not self.signals:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if call == self.call and not sent.exists():
                mine = True
                others = len(workers(but=os.getpid()))
                sent.write_text(json.dumps([time.time(), others]))
                self.send(send)
            elif mine:
                time.sleep(PAUSE)

        EVERY[self.phase](hit)


def count_calls(counts: Path) -> None:
    """Count the calls of every phase in this process, and keep them in the file `counts`."""
    seen = dict.fromkeys(EVERY, 0)

    def counter(phase: str) -> Hit:
        def hit() -> None:
            seen[phase] += 1
            counts.write_bytes(json.dumps(seen).encode())  # write_text is one of the phases

        return hit

    for phase, arm in EVERY.items():
        arm(counter(phase))


@dataclass(frozen=True)
class Orders:
    """What the processes of one command wait for: a moment, or they count all calls there are."""

    start: str
    output: str
    moment: Moment | None = None
    counting: bool = False

    def follow(self, rank: int, send: Send) -> None:
        """Wait, or count, in this process."""
        moment = self.moment
        if self.counting:
            count_calls(Path(f"{self.output}.calls-{rank}"))
        elif moment and moment.phase in EVERY and moment.rank in (rank, None):
            moment.arm(Path(f"{self.output}.sent"), send)


def orders_as_text(orders: Orders) -> str:
    """Orders as the variable `ENVIRONMENT` has them."""
    return json.dumps(asdict(orders))


def follow_orders_of_environment() -> None:
    """Follow them in this process, if it is one of those that train."""
    given = json.loads(os.environ.get(ENVIRONMENT, "null"))
    rank = os.environ.get("LOCAL_RANK")
    trains = rank is not None or (given and given["start"] != "torchrun")
    if given is None or not trains or MODULES.isdisjoint(sys.orig_argv):
        return
    moment = given["moment"] and Moment(
        **given["moment"] | {"signals": tuple(given["moment"]["signals"])}
    )
    # torchrun is the parent of all; where Lightning starts processes the first is that of others.
    launcher = os.getpid() if rank is None else os.getppid()

    def send(number: int) -> None:
        if number == signal.SIGKILL:
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT:
            os.killpg(launcher, number)  # as a terminal does
        else:
            os.kill(launcher, number)

    Orders(**given | {"moment": moment}).follow(int(rank or 0), send)


def workers(token: str | None = None, but: int = 0) -> dict[int, int]:
    """The processes that train together and run now: rank by process id.

    Args:
        token: The orders of their command; None takes those that this process has.
        but: A process that is left out.
    """
    found = {}
    for process, variables in processes(token).items():
        path = Path("/proc") / str(process) / "cmdline"
        command = path.read_bytes().decode().split("\0") if path.exists() else []
        trains = "torch.distributed.run" not in command and not MODULES.isdisjoint(command)
        if trains and process != but:
            found[process] = int(variables.get(b"LOCAL_RANK", b"0"))
    return found


def processes(token: str | None = None) -> dict[int, dict[bytes, bytes]]:
    """All processes of the command that has the orders `token`: their first variables by id."""
    wanted = (token or os.environ.get(ENVIRONMENT, "none")).encode()
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            pairs = [pair.partition(b"=") for pair in path.read_bytes().split(b"\0")]
        except OSError:  # it has ended, or is somebody else's
            continue
        variables = {name: value for name, _, value in pairs}
        if variables.get(ENVIRONMENT.encode()) == wanted:
            found[int(path.parent.name)] = variables
    return found
