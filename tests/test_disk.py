"""A disk that is full, or a folder that is gone: one line, and what was saved stays whole."""

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import LOOPS, fit, run
from tests.faults.hurt import Whole, uninterrupted
from tests.faults.left import broken_files, differences, newest
from tests.faults.moments import Moment


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A run of the homemade loop that nobody hurts, and the cache of decoded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("faults")
        yield uninterrupted(folder / "whole", folder / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kilobytes", [4, 120])
def test_a_disk_that_is_full_is_told_in_one_line(
    kilobytes: int, loop: str, whole: Whole, tmp_path: Path
) -> None:
    """TensorBoard begins with more than 4 kB, and has over 120 when the first epoch is saved."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2)

    done = subprocess.run(
        [sys.executable, "-m", "twinloop", *fit(loop, tmp_path, whole.cache)],
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
    again = fit(loop, tmp_path, whole.cache, *(["--ckpt_path", "last"] if saved else []))
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path), whole.run) == []


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
    small_disk: Path, saved: int, loop: str, whole: Whole, tmp_path: Path
) -> None:
    """Full inside of the first checkpoint, and in the last epoch."""
    done = subprocess.run(
        [sys.executable, "-m", "twinloop", *fit(loop, small_disk, whole.cache)],
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
    again = fit(loop, tmp_path / "large", whole.cache, *options)
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path / "large"), whole.run) == []


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("phase", "call"), [("writing a checkpoint", 4), ("writing results.json", 1)]
)
def test_a_disk_that_is_full_leaves_the_last_checkpoint(
    phase: str, call: int, loop: str, whole: Whole, tmp_path: Path
) -> None:
    ended = run(fit(loop, tmp_path, whole.cache), tmp_path / "full", Moment(phase, call))
    assert ended.status == 2
    assert re.match(
        r"error: cannot write .+: No space left on device", ended.printed.splitlines()[-1]
    )
    assert "Traceback" not in ended.printed
    assert broken_files(tmp_path) == []
    assert not list(tmp_path.rglob("*.part"))
    again = fit(loop, tmp_path, whole.cache, "--ckpt_path", "last")
    assert run(again, tmp_path / "printed").status == 0
    assert differences(newest(tmp_path), whole.run) == []


@pytest.mark.slow
def test_a_disk_that_is_full_does_not_poison_the_cache(whole: Whole, tmp_path: Path) -> None:
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
    assert differences(newest(tmp_path), whole.run) == []


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_folder_that_is_deleted_under_its_run_is_told(
    loop: str, whole: Whole, tmp_path: Path
) -> None:
    code = """
import runpy, shutil, sys
from pathlib import Path
from tests.faults.moments import PHASES
folder = Path(sys.argv.pop(1))
PHASES["training"](lambda: shutil.rmtree(folder / "lightning_logs", ignore_errors=True))
if __name__ == "__main__":
    runpy.run_module("twinloop", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *fit(loop, tmp_path, whole.cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    error = r"error: the run folder [^\n]+ was deleted; start again\n"
    assert re.fullmatch(error, done.stderr), done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_file_in_place_of_the_logs_is_told(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "lightning_logs").write_text("no folder")
    ended = run(fit("homemade", tmp_path, whole.cache), tmp_path / "printed")
    assert ended.status == 2
    assert re.fullmatch(
        r"error: cannot make the run folder [^\n]+: Not a directory\n", ended.printed
    )
