"""An interrupted run loses no saved file, and is resumed to the end of an uninterrupted one."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults import __main__ as command
from tests.faults import commands
from tests.faults.commands import EXPERIMENT, LAUNCHED, LOOPS, ONE, TORCHRUN, Ended, fit, run
from tests.faults.inject import (
    STOP_SECONDS,
    NotReachedError,
    Whole,
    came_in_time,
    first_call,
    inject,
    last_call,
    uninterrupted,
)
from tests.faults.left import differences
from tests.faults.moments import (
    ANY_TIME,
    ENVIRONMENT,
    PHASES,
    SIGNALS,
    Moment,
    Orders,
    orders_as_text,
    processes,
)
from twinloop.runs.lock import lock_run
from twinloop.runs.stop import StopSignals

INTERRUPTED = [
    (phase, name)
    for n, phase in enumerate([*PHASES, ANY_TIME])
    for name in list(SIGNALS)[n % 4 :: 4]
]
"""Each phase, and each signal twice; `make faults` goes through every pair."""
TWO = [
    (TORCHRUN, "lightning", "SIGTERM", 0, "after each epoch"),
    (TORCHRUN, "homemade", "Ctrl-C", 1, "every 2 batches"),
    (TORCHRUN, "homemade", "SIGKILL", 0, "twice an epoch"),
    (LAUNCHED, "lightning", "SIGTERM", 0, "every 2nd epoch"),
    (LAUNCHED, "lightning", "Ctrl-C twice", 0, "after each epoch"),
    (LAUNCHED, "lightning", "SIGKILL", 1, "every 2 batches"),
]
"""Who starts two processes, whose loop it is, what signals, which process, and validation when."""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """An uninterrupted run of the homemade loop, and the cache of decoded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("faults")
        yield uninterrupted(folder / "whole", folder / "cache")


@pytest.mark.parametrize("number", range(len(INTERRUPTED)))
def test_an_interrupted_run_is_resumed_to_the_same_end(
    number: int, whole: Whole, tmp_path: Path
) -> None:
    phase, name = INTERRUPTED[number]
    call = (first_call(phase) + last_call(whole, phase, 0)) // 2
    # Each signal interrupts both loops.
    loop = LOOPS[(number + number // 4) % 2]
    inject(whole, Moment(phase, call, SIGNALS[name]), tmp_path / "run", loop)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Whole]]:
    """Uninterrupted runs of two processes, by when they validate.

    Whoever starts them and whichever loop trains, they end with the same bits.
    """
    folder = tmp_path_factory.mktemp("two")

    @cache
    def whole(validation: str) -> Whole:
        root = folder / validation
        return uninterrupted(root, folder / "cache", TORCHRUN, "homemade", validation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield whole


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("start", "loop", "name", "rank", "validation"), TWO)
def test_two_interrupted_processes_are_resumed_to_the_same_end(
    start: str,
    loop: str,
    name: str,
    rank: int,
    validation: str,
    two_processes: Callable[[str], Whole],
    tmp_path: Path,
) -> None:
    two = replace(two_processes(validation), start=start, loop=loop)
    inject(two, Moment("training", 9, SIGNALS[name], rank), tmp_path / "run")


def test_a_run_that_was_not_interrupted_is_no_success(whole: Whole, tmp_path: Path) -> None:
    moment = Moment("training", 10_000, SIGNALS["SIGTERM"])
    with pytest.raises(NotReachedError):
        inject(whole, moment, tmp_path / "run")


def test_an_ignored_signal_is_no_success() -> None:
    moment = Moment(ANY_TIME, 100, SIGNALS["SIGTERM"])
    late = Ended(status=0, printed="", seconds=0.1, reached=True)
    assert not came_in_time(late, moment)
    assert not came_in_time(Ended(status=0, printed="", seconds=9.0), moment)
    assert came_in_time(Ended(status=143, printed="", seconds=0.1, reached=True), moment)
    with pytest.raises(AssertionError, match="ignores the signal"):
        came_in_time(Ended(status=0, printed="", seconds=3.0, reached=True), moment)


@pytest.mark.parametrize(
    ("error", "passed"),
    [(None, True), (NotReachedError(), False), (AssertionError("lost"), False)],
)
def test_a_campaign_succeeds_if_runs_were_interrupted_and_none_failed(
    error: Exception | None,
    passed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def inject(_: Whole, __: Moment, root: Path) -> Ended:
        root.mkdir()
        if error:
            raise error
        return Ended(143, "", 0.5, reached=True)

    calls = [dict.fromkeys(PHASES, 5)]
    monkeypatch.setattr(command, "uninterrupted", lambda *_: Whole(tmp_path, calls, tmp_path))
    monkeypatch.setattr(command, "inject", inject)
    path = tmp_path / "faults.json"
    assert command.campaign(path, 0, 2, 60, [ONE]) == passed
    assert json.loads(path.read_text())["passed"] == 2 * passed
    assert command.again(path, [1]) == passed
    kept = json.loads(path.read_text())
    assert kept["passed"] == 2 * passed  # as they were
    assert [(one["numbers"], one["passed"]) for one in kept["again"]] == [([1], int(passed))]


def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = "import time; time.sleep(99)"
    waits = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleep}']); {sleep}"
    printed = tmp_path / "printed"
    (tmp_path / "printed.sent").write_text(json.dumps([time.time(), 1]))
    monkeypatch.setattr(commands, "HANGING", 0.5)
    start = ["-c", waits, "--"]  # a launcher, and the process that it has started
    monkeypatch.setattr(commands, "launcher", lambda _: start)
    moment = Moment("training", 8, SIGNALS["SIGTERM"])
    ended = run([], printed, moment, start=TORCHRUN)
    assert ended.hung
    assert ended.status == -signal.SIGKILL
    assert not processes(orders_as_text(Orders(TORCHRUN, str(printed), moment)))
    assert ENVIRONMENT not in os.environ


def test_a_signal_during_a_print_is_handled(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.RawIOBase):
        """Has this process get a SIGTERM while something is printed."""

        def writable(self) -> bool:
            return True

        def write(self, text: Any) -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            return len(text)

    signals = StopSignals()
    with monkeypatch.context() as patch, signals:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Terminal())))
        print("epoch 1/3", flush=True)  # lets no other print in: that raises RuntimeError
    assert signals.received == signal.SIGTERM
    assert "stopping after this step" in capfd.readouterr().out


def test_two_processes_never_train_in_one_folder(whole: Whole, tmp_path: Path) -> None:
    lock = lock_run(whole.run)
    again = fit("homemade", whole.run.parents[2], whole.cache, "--ckpt_path", "last")
    ended = run(again, tmp_path / "printed")
    lock.release()
    assert ended.status == 2
    assert re.fullmatch(r"error: another process is training in [^\n]+\n", ended.printed)


def test_eight_runs_at_once_decode_once_and_have_folders_of_their_own(
    whole: Whole, tmp_path: Path
) -> None:
    commands = [fit(LOOPS[n % 2], tmp_path, tmp_path / "cache") for n in range(8)]
    decoded: set[Path] = set()  # into a new folder each time, which is renamed at the end
    with ThreadPoolExecutor(8) as pool:
        outputs = [tmp_path / f"printed {n}" for n in range(8)]
        runs = [pool.submit(run, *pair) for pair in zip(commands, outputs, strict=True)]
        while not all(one.done() for one in runs):
            decoded |= set((tmp_path / "cache").glob("*.part-*"))
            time.sleep(0.002)
    assert [one.result().status for one in runs] == [0] * 8
    assert len(decoded) == 1
    folders = sorted((tmp_path / "lightning_logs" / EXPERIMENT).iterdir())
    assert [path.name for path in folders] == [f"version_{n}-digits" for n in range(8)]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    for path in folders:
        assert differences(path, whole.run) == []


def compare(root: Path, *options: str) -> list[str]:
    config = Path(__file__).parents[1] / "experiments" / "mlp.yaml"
    return [
        *(sys.executable, "-m", "twinloop", "compare", "--config", str(config)),
        *("--data.source", "digits", "--trainer.default_root_dir", str(root)),
        *("--trainer.max_epochs", "2", *options),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_comparison_that_was_stopped_is_resumed(number: signal.Signals, tmp_path: Path) -> None:
    with (tmp_path / "printed").open("w") as output:
        child = subprocess.Popen(
            compare(tmp_path), stdout=output, stderr=output, start_new_session=True
        )
        patience = time.monotonic() + 120
        while not list(tmp_path.rglob("lightning-42/config.yaml")):
            assert time.monotonic() < patience
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal does
        else:
            os.kill(child.pid, number)
        sent = time.monotonic()
        status = child.wait()
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert time.monotonic() - sent < STOP_SECONDS[1]
        assert "resume with --resume" in (tmp_path / "printed").read_text().splitlines()[-1]
    done = subprocess.run(
        compare(tmp_path, "--resume"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "seed 42: identical: 12 steps" in done.stdout
