"""Waiting threads give up their core, unless the user wants them to spin."""

import os
import subprocess
import sys

import pytest

from twinloop.openmp import SPINS, limit_spinning

WATCHED = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("torch with", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
sys.argv = ["twinloop", "new", "--help"]
runpy.run_module("twinloop", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "ACTIVE")
    before = dict(os.environ)
    limit_spinning()
    assert dict(os.environ) == before


def test_the_command_line_limits_spinning_before_it_imports_torch() -> None:
    names = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == f"torch with {SPINS}"
