"""A process that another one has started: which signals it leaves alone, and when it ends."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHED = """
import os, subprocess, sys, time
if sys.argv[1:] == ["launched"]:
    from twinloop.launched import end_with_launcher
    end_with_launcher("error: lost")
    print("watching", flush=True)
    time.sleep(60)
else:
    environment = os.environ | {"LOCAL_RANK": sys.argv[1], "NODE_RANK": "0", "WORLD_SIZE": "2"}
    subprocess.Popen([sys.executable, __file__, "launched"], env=environment)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "ends"), [("1", True), ("0", False)])
def test_a_launched_process_ends_with_the_one_that_launched_it(
    rank: str, ends: bool, tmp_path: Path
) -> None:
    script = tmp_path / "launch.py"
    script.write_text(LAUNCHED)
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    with subprocess.Popen(
        [sys.executable, str(script), rank],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        try:
            assert launcher.stdout.readline() == "watching\n"
            launcher.kill()
            # The launched process has the other ends of both pipes.
            ready, _, _ = select.select([launcher.stderr], [], [], 5)
            assert bool(ready) is ends
            assert not ends or launcher.stderr.read() == "error: lost\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


WAITS = """
import os, signal
from twinloop.runs.stop import StoppedAtOnce, stopping_at_once
with stopping_at_once():
    for name in {signals}:
        os.kill(os.getpid(), getattr(signal, name))
print("goes on")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "signals", "status", "printed"),
    [
        ("1", ["SIGINT"], 0, "goes on\n"),
        ("1", ["SIGTERM", "SIGTERM", "SIGINT"], 0, "goes on\n"),
        ("1", ["SIGINT", "SIGINT"], 0, "goes on\n"),
        ("0", ["SIGINT"], 1, ""),
    ],
)
def test_until_it_has_joined_signals_are_left_to_the_first_process(
    rank: str, signals: list[str], status: int, printed: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = subprocess.run(
        [sys.executable, "-c", WAITS.format(signals=signals)],
        env=environment | {"LOCAL_RANK": rank, "NODE_RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, printed)


@pytest.mark.slow
def test_ctrl_c_while_the_command_is_imported_ends_only_a_process_that_nobody_launched() -> None:
    """Lightning would kill the first process, and say nothing, if the launched one ended so."""
    code = (
        "import os, runpy, signal, sys, types\n"
        "class Signals(types.ModuleType):\n"
        "    def __getattr__(self, name):\n"
        "        if name != 'main':\n"
        "            raise AttributeError(name)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return lambda args: 3\n"
        "sys.modules['twinloop.cli'] = Signals('twinloop.cli')\n"
        "runpy.run_module('twinloop', run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"LOCAL_RANK": rank}, check=False
        ).returncode
        for rank in ("0", "1")
    ]
    assert found == [-signal.SIGINT, 3]
