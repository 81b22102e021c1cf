"""Waiting threads give up their core, unless the user wants them to spin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinloop import openmp

WATCHED = """
import os, pathlib, runpy, sys
from twinloop import openmp

class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.exit(f"torch with {os.environ.get('GOMP_SPINCOUNT')}")

openmp.LOADAVG = pathlib.Path(sys.argv[1])
sys.meta_path.insert(0, Watch())
sys.argv = ["twinloop", "new", "--help"]
runpy.run_module("twinloop", run_name="__main__")
"""
NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one other process, and a user who has set nothing."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    loadavg = tmp_path / "loadavg"
    loadavg.write_text("0.00 0.01 0.05 2/75 19111\n")
    monkeypatch.setattr(openmp, "LOADAVG", loadavg)
    return loadavg


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "ACTIVE")
    before = dict(os.environ)
    openmp.limit_spinning()
    assert dict(os.environ) == before


def test_threads_spin_where_nothing_else_runs(busy: Path) -> None:
    busy.write_text("9.00 9.01 9.05 1/75 19111\n")  # what ran before does not count
    openmp.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    busy.unlink()  # another system
    openmp.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_command_limits_spinning_on_a_busy_machine_before_it_imports_torch(busy: Path) -> None:
    command = [sys.executable, "-c", WATCHED, str(busy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr == f"torch with {openmp.SPINS}\n"
