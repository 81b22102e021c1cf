"""A run that is hurt loses nothing that it has saved, and ends as one that was not hurt."""

import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import (
    CALLS,
    EXPERIMENT,
    LOOPS,
    SIGNALS,
    STOP_SECONDS,
    Moment,
    broken_files,
    differences,
    fit,
    hurt,
    newest,
    run,
)
from twinloop.runs.folder import only_process
from twinloop.runs.stop import StopSignals

HURT = [(phase, name) for n, phase in enumerate(CALLS) for name in list(SIGNALS)[n % 2 :: 2]]
"""Half of all; `make faults` goes through every one, several times."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of the homemade loop that nobody hurts, and the cache of decoded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("faults")
        ended = run(fit("homemade", folder / "whole", folder / "cache"), folder / "printed")
        assert ended.status == 0, ended.printed
        yield folder


@pytest.mark.parametrize(
    ("loop", "phase", "call", "name"),
    [
        ("homemade", "validation", 6, "SIGTERM"),
        ("lightning", "writing a checkpoint", 2, "SIGKILL"),
    ],
)
def test_a_run_that_is_hurt_ends_as_one_that_is_not(
    loop: str, phase: str, call: int, name: str, folder: Path, tmp_path: Path
) -> None:
    moment = Moment(phase, call, SIGNALS[name])
    hurt(loop, moment, tmp_path / "run", newest(folder / "whole"), folder / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(HURT)))
def test_in_every_phase_and_by_every_signal(number: int, folder: Path, tmp_path: Path) -> None:
    phase, name = HURT[number]
    moment = Moment(phase, CALLS[phase][len(CALLS[phase]) // 2], SIGNALS[name])
    # Each phase is hurt in both loops, and each signal too.
    loop = LOOPS[(number + number // 4) % 2]
    hurt(loop, moment, tmp_path / "run", newest(folder / "whole"), folder / "cache")


def test_a_signal_inside_a_print_is_not_the_end(
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


def test_two_processes_never_train_in_one_folder(folder: Path, tmp_path: Path) -> None:
    lock = only_process(newest(folder / "whole"))
    again = fit("homemade", folder / "whole", folder / "cache", "--ckpt_path", "last")
    ended = run(again, tmp_path / "printed")
    lock.release()
    assert ended.status == 2
    assert re.fullmatch(r"error: another process trains in [^\n]+\n", ended.printed)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kilobytes", [4, 120])
def test_a_disk_that_is_full_is_told_in_one_line(
    kilobytes: int, loop: str, folder: Path, tmp_path: Path
) -> None:
    """TensorBoard begins with more than 4 kB, and has over 120 when the first epoch is saved."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2)

    done = subprocess.run(
        [sys.executable, "-m", "twinloop", *fit(loop, tmp_path, folder / "cache")],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot write [^\n]+\n", done.stderr), done.stderr
    assert broken_files(tmp_path) == []
    saved = list(tmp_path.rglob("last.ckpt"))
    assert bool(saved) == (kilobytes == 120)
    again = fit(loop, tmp_path, folder / "cache", *(["--ckpt_path", "last"] if saved else []))
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path), newest(folder / "whole")) == []


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of so many kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ["-o", f"size={request.param}k"]
    if subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", disk], check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("small_disk", "saved"), [(64, 0), (300, 2)], indirect=["small_disk"])
def test_a_file_system_that_is_full_is_told_in_one_line(
    small_disk: Path, saved: int, loop: str, folder: Path, tmp_path: Path
) -> None:
    """Full inside of the first checkpoint, and in the last epoch."""
    done = subprocess.run(
        [sys.executable, "-m", "twinloop", *fit(loop, small_disk, folder / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot write [^\n]+No space left on device[^\n]+\n", done.stderr)
    assert broken_files(small_disk) == []
    assert len(list(small_disk.rglob("*.ckpt"))) == saved
    # There is room elsewhere.
    shutil.copytree(small_disk, tmp_path / "large")
    options = ["--ckpt_path", "last"] if saved else []
    again = fit(loop, tmp_path / "large", folder / "cache", *options)
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path / "large"), newest(folder / "whole")) == []


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("phase", "call"), [("writing a checkpoint", 4), ("writing results.json", 1)]
)
def test_a_disk_that_is_full_leaves_the_last_checkpoint(
    phase: str, call: int, loop: str, folder: Path, tmp_path: Path
) -> None:
    ended = run(fit(loop, tmp_path, folder / "cache"), tmp_path / "full", Moment(phase, call))
    assert ended.status == 2
    assert re.match(
        r"error: cannot write .+: No space left on device", ended.printed.splitlines()[-1]
    )
    assert "Traceback" not in ended.printed
    assert broken_files(tmp_path) == []
    assert not list(tmp_path.rglob("*.part"))
    again = fit(loop, tmp_path, folder / "cache", "--ckpt_path", "last")
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path), newest(folder / "whole")) == []


@pytest.mark.slow
def test_a_disk_that_is_full_does_not_poison_the_cache(folder: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024,) * 2)  # digits have 112 kB

    command = fit("homemade", tmp_path, tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-m", "twinloop", *command],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: data.cache_dir: cannot write to [^\n]+\n", done.stderr), (
        done.stderr
    )
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert run(command, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path), newest(folder / "whole")) == []


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_folder_that_is_deleted_under_its_run_is_told(
    loop: str, folder: Path, tmp_path: Path
) -> None:
    code = """
import runpy, shutil, sys
from pathlib import Path
from tests.faults import PHASES
folder = Path(sys.argv.pop(1))
PHASES["training"][0](lambda: shutil.rmtree(folder / "lightning_logs", ignore_errors=True))
if __name__ == "__main__":
    runpy.run_module("twinloop", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *fit(loop, tmp_path, folder / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    error = r"error: the run folder [^\n]+ is gone; start again\n"
    assert re.fullmatch(error, done.stderr), done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_file_in_place_of_the_logs_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lightning_logs").write_text("no folder")
    ended = run(fit("homemade", tmp_path, folder / "cache"), tmp_path / "printed")
    assert ended.status == 2
    assert re.fullmatch(
        r"error: cannot make the run folder [^\n]+: Not a directory\n", ended.printed
    )


@pytest.mark.slow
def test_eight_runs_at_once_decode_once_and_have_folders_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    commands = [
        [sys.executable, "-m", "twinloop", *fit(LOOPS[n % 2], tmp_path, tmp_path / "cache")]
        for n in range(8)
    ]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    decoded: set[Path] = set()  # into a new folder each time, which is renamed at the end
    while any(child.poll() is None for child in children):
        decoded |= set((tmp_path / "cache").glob("*.part-*"))
        time.sleep(0.002)
    assert [child.wait() for child in children] == [0] * 8
    assert len(decoded) == 1
    runs = sorted((tmp_path / "lightning_logs" / EXPERIMENT).iterdir())
    assert [path.name for path in runs] == [f"version_{n}-digits" for n in range(8)]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    for path in runs:
        assert differences(path, newest(folder / "whole")) == []


def compare(root: Path, *options: str) -> list[str]:
    config = Path(__file__).parents[1] / "experiments" / "mlp.yaml"
    return [
        *(sys.executable, "-m", "twinloop", "compare", "--config", str(config)),
        *("--data.source", "digits", "--trainer.default_root_dir", str(root)),
        *("--trainer.max_epochs", "2", *options),
    ]


@pytest.mark.slow
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
        assert time.monotonic() - sent < STOP_SECONDS
        assert "go on with --resume" in (tmp_path / "printed").read_text().splitlines()[-1]
    done = subprocess.run(
        compare(tmp_path, "--resume"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "seed 42: identical: 12 steps" in done.stdout
