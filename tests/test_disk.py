"""A disk that is full, or a folder that is gone: one line, and what was saved stays whole."""

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import LOOPS, fit, run
from tests.faults.inject import Whole, resume, uninterrupted
from tests.faults.left import broken_files, parts
from tests.faults.moments import Moment

pytestmark = pytest.mark.slow


def error_of(command: list[str], *start: str, **options: Any) -> str:
    """What a command that is refused prints to stderr."""
    python = [sys.executable, *(start or ("-m", "twinloop")), *command]
    done = subprocess.run(python, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 2
    error: str = done.stderr
    return error


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """An uninterrupted run of the homemade loop, and the cache of decoded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("faults")
        yield uninterrupted(folder / "whole", folder / "cache")


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of so many kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ["-o", f"size={request.param}k"]
    command = ["mount", "-t", "tmpfs", *size, "tmpfs", str(disk)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:  # without root, or in a container that may not
        pytest.skip(f"needs a file system of its own: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("small_disk", "saved", "loop"),
    [(12, 0, "lightning"), (64, 0, "homemade"), (360, 2, "lightning"), (360, 2, "homemade")],
    indirect=["small_disk"],
)
def test_a_full_file_system_is_reported_in_one_line_and_resumed_elsewhere(
    small_disk: Path, saved: int, loop: str, whole: Whole, tmp_path: Path
) -> None:
    """Full before the first epoch, inside of the first checkpoint, and in the last epoch."""
    error = error_of(fit(loop, small_disk, whole.cache))
    assert re.fullmatch(r"error: cannot write [^\n]+No space left on device[^\n]+\n", error), error
    assert broken_files(small_disk) == []
    assert len(list(small_disk.rglob("*.ckpt"))) == saved
    shutil.copytree(small_disk, tmp_path / "large")
    resume(whole, tmp_path / "large", whole.cache, loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("phase", "call"), [("writing a checkpoint", 4), ("writing results.json", 1)]
)
def test_a_full_disk_leaves_the_last_checkpoint(
    phase: str, call: int, loop: str, whole: Whole, tmp_path: Path
) -> None:
    ended = run(fit(loop, tmp_path, whole.cache), tmp_path / "full", Moment(phase, call))
    assert ended.status == 2
    line = ended.printed.splitlines()[-1]
    assert re.match(r"error: cannot write .+: No space left on device", line)
    assert "Traceback" not in ended.printed
    assert broken_files(tmp_path) == []
    assert parts(tmp_path) == []
    resume(whole, tmp_path, whole.cache, loop)


def test_a_full_disk_leaves_no_broken_cache(whole: Whole, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024,) * 2)  # digits have 112 kB

    error = error_of(fit("homemade", tmp_path, tmp_path / "cache"), preexec_fn=limit)
    assert re.fullmatch(r"error: data.cache_dir: cannot write to [^\n]+\n", error), error
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    resume(whole, tmp_path, tmp_path / "cache", "homemade")


DELETES = """
import runpy, shutil, sys
from pathlib import Path
from tests.faults.moments import PHASES
folder = Path(sys.argv.pop(1))
PHASES["training"](lambda: shutil.rmtree(folder / "lightning_logs", ignore_errors=True))
if __name__ == "__main__":
    runpy.run_module("twinloop", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_folder_deleted_during_the_run_is_reported(
    loop: str, whole: Whole, tmp_path: Path
) -> None:
    error = error_of(fit(loop, tmp_path, whole.cache), "-c", DELETES, str(tmp_path))
    assert re.fullmatch(r"error: the run folder [^\n]+ was deleted; start again\n", error), error
    assert not list(tmp_path.rglob("*.ckpt"))
