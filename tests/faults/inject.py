"""Inject a fault into a run, check what it has left and printed, and resume it."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import twinloop
from tests.faults.commands import EPOCHS, HANGING, LAUNCHED, ONE, Ended, calls, fit, run
from tests.faults.left import broken_files, differences, newest, parts
from tests.faults.moments import ANY_TIME, IMAGES, Moment

STOP_SECONDS = {1: 5.0, 2: 20.0}
"""How long a run of so many processes may take to save and stop; two end their validation first."""
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+")


class NotReachedError(Exception):
    """The run had ended before its moment came, so that nothing was tried."""


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run, and how many calls of each phase it had, by rank."""

    run: Path
    calls: list[dict[str, int]]
    cache: Path
    start: str = ONE
    loop: str = "homemade"
    validation: str = "after each epoch"

    def ranks_of(self, phase: str) -> list[int]:
        """The processes that have calls of a phase."""
        return [rank for rank, counts in enumerate(self.calls) if counts[phase]]


def uninterrupted(
    root: Path,
    cache: Path,
    start: str = ONE,
    loop: str = "homemade",
    validation: str = "after each epoch",
) -> Whole:
    """Make a run below `root` whose calls are counted; it decodes into `cache` if that is empty.

    Raises:
        AssertionError: it does not end well.
    """
    root.mkdir(parents=True)
    printed = root / "printed"
    command = fit(loop, root, cache, validation=validation)
    ended = run(command, printed, start=start, counting=True)
    assert ended.status == 0, ended.printed
    counted = calls(printed)
    assert len(counted) == (1 if start == ONE else 2)
    return Whole(newest(root), counted, cache, start, loop, validation)


def inject(whole: Whole, moment: Moment, root: Path, loop: str | None = None) -> Ended:
    """Inject a fault into a run below `root` at `moment`, check what it has left, and resume it.

    Args:
        whole: An uninterrupted run of the same settings, with which the resumed run must agree.
        moment: When, and by which signals.
        root: A folder of the run's own.
        loop: The loop that trains; None takes that of `whole`.

    Raises:
        AssertionError: something is lost, or not as it was printed.
        NotReachedError: the moment has not come.
    """
    # A run that is interrupted while it decodes has a cache of its own.
    cache = root / "cache" if moment.phase == "decoding" else whole.cache
    loop = loop or whole.loop
    root.mkdir()
    command = fit(loop, root, cache, validation=whole.validation)
    ended = run(command, root / "interrupted", moment, start=whole.start)
    broken = broken_files(root)
    assert not broken, broken
    assert not ended.hung, f"does not end: {HANGING:.0f} s after the signal\n{ended.printed}"
    if not came_in_time(ended, moment):
        assert ended.status == 0 or _is_complete(ended), ended.printed
        assert not (found := differences(newest(root), whole.run)), found
        raise NotReachedError
    (_check_kill if signal.SIGKILL in moment.signals else _check_stop)(ended, whole.start, moment)
    if signal.SIGKILL not in moment.signals:
        assert not parts(root), "a part is left"
    resume(whole, root, cache, loop)
    return ended


def resume(whole: Whole, root: Path, cache: Path, loop: str) -> None:
    """Resume an interrupted run below `root`, which must end with the bits of `whole`.

    Raises:
        AssertionError: it does not.
    """
    last = ["--ckpt_path", "last"] if list(root.rglob("last.ckpt")) else []
    again = fit(loop, root, cache, *last, validation=whole.validation)
    ended = run(again, root / "resumed", start=whole.start)
    assert ended.status == 0, ended.printed
    found = differences(newest(root), whole.run)
    assert not found, found


def came_in_time(ended: Ended, moment: Moment) -> bool:
    """Whether the fault came before the run had done everything.

    Raises:
        AssertionError: the signal came in time, and was ignored.
    """
    if not ended.reached:
        return False
    at_its_end = moment.phase == ANY_TIME and (ended.status == 0 or _is_complete(ended))
    assert not at_its_end or ended.seconds < 1, f"ignores the signal for {ended.seconds:.1f} s"
    return not at_its_end


def _is_complete(ended: Ended) -> bool:
    """Whether all results are printed; torchrun tells of a signal that comes even later."""
    return "figures and results.json: " in ended.printed


def _began(ended: Ended) -> bool:
    """Whether the run had a folder and had printed what it trains."""
    return re.search(r"\bloop: ", ended.printed) is not None


def _check_kill(ended: Ended, start: str, moment: Moment) -> None:
    """A process was killed: it has printed nothing, and all others have ended with the reason."""
    killed = start == ONE or (start == LAUNCHED and moment.rank == 0)
    assert ended.status == -signal.SIGKILL if killed else ended.status, str(ended.status)
    assert ended.seconds < HANGING, f"{ended.seconds:.0f} s to end"
    # A process that has nothing more to train ends as if nothing were.
    trained = f"epoch {EPOCHS}/{EPOCHS}" in ended.printed
    # While the first process decodes, torchrun ends the rest, which have not joined it, and names
    # the killed process itself.
    silent = start not in (ONE, LAUNCHED) and not _began(ended)
    assert not silent or "Signal 9 (SIGKILL) received by PID" in ended.printed, ended.printed
    least = bool(ended.others and not trained and not silent)
    _check_lines(ended, range(least, 2 if ended.others else 1))


def _check_stop(ended: Ended, start: str, moment: Moment) -> None:
    """All processes were asked to stop: the first has printed where, and how to resume."""
    number = signal.Signals(moment.signals[0])
    # torchrun has a status of its own, and says so itself.
    as_told = ended.status == 128 + number or (start not in (ONE, LAUNCHED) and ended.status)
    assert as_told, f"status {ended.status}: {ended.printed}"
    most = STOP_SECONDS[1 if start == ONE else 2]
    assert ended.seconds < most, f"{ended.seconds:.1f} s to stop\n{ended.printed}"
    # Before the command begins a signal ends it in silence; nothing is at stake yet.
    lines = _check_lines(ended, range(_began(ended), 2))
    if not lines:
        return
    (line,) = lines
    # torchrun sends a SIGTERM of its own after a Ctrl-C.
    names = [number.name] if start in (ONE, LAUNCHED) else [number.name, "SIGTERM"]
    assert line.startswith(tuple(f"stopped by {name}" for name in names)), ended.printed
    assert "resume with --ckpt_path last" in line
    assert start != ONE or ended.printed.splitlines()[-1] == line


def _check_lines(ended: Ended, counts: range) -> list[str]:
    """The lines that say why a run has ended, which must be so many, without a traceback of ours.

    torchrun prints one of its own.
    """
    ours = [text for text in TRACEBACK.findall(ended.printed) if str(twinloop.__path__[0]) in text]
    assert not ours, f"a traceback:\n{ended.printed}"
    lines = [line for line in ended.printed.splitlines() if re.match("error: |stopped by ", line)]
    assert len(lines) in counts, f"{len(lines)} lines say why:\n{ended.printed}"
    return lines


def first_call(phase: str) -> int:
    """The first call of a phase: the first batch has a phase of its own."""
    return 2 if phase == "training" else 1


def last_call(whole: Whole, phase: str, rank: int | None) -> int:
    """The last call of a phase that process `rank` of a run has, or any that decodes."""
    if phase == ANY_TIME:
        return 2_000 if whole.start == ONE else 9_000
    if phase == "decoding":
        return IMAGES
    return 1 if phase == "first batch" else whole.calls[rank or 0][phase]
