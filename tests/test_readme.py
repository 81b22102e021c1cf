"""Every command in the README does what it says there."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
COMMANDS = list(
    dict.fromkeys(
        line.partition("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        for line in block.splitlines()
    )
)
CALLING_THESE_TESTS = ("make test", "make test-all", "make lint")
"""What .ci/run calls: checked by running, but not from inside itself."""
STAYING = "make tensorboard"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout that shares its installed .venv."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
        os.utime(copy / name, (0, 0))  # older than the stamp: nothing is installed again
    shutil.copytree(ROOT / "experiments", copy / "experiments")
    (copy / ".venv").symlink_to(sys.prefix)
    (copy / "my-pictures").mkdir()
    Image.new("RGB", (50, 40), (30, 90, 200)).save(copy / "my-pictures" / "one.png")
    return copy


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) >= 12
    assert COMMANDS[:2] == ["make train-ae", "make test"]
    assert set(CALLING_THESE_TESTS) <= set(COMMANDS)


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_readme(checkout: Path) -> None:
    environment = os.environ | {"DATA": "digits"}
    environment.pop("RESUME", None)
    for command in COMMANDS:
        if command not in (*CALLING_THESE_TESTS, STAYING):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=checkout,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert not done.stderr, f"{command}\n{done.stderr}"
    logs = checkout / "lightning_logs"
    assert (logs / "autoencoder" / "version_0-digits" / "results.json").is_file()
    predictions = sorted(logs.glob("mlp/*/predictions/my-pictures/predictions.csv"))
    assert len(predictions) == 1


@pytest.mark.slow
def test_make_tensorboard_serves_on_this_machine_only(checkout: Path) -> None:
    with subprocess.Popen(
        ["make", "tensorboard"],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = next(
                match[0]
                for line in server.stdout
                if (match := re.search(r"http://localhost:\d+/", line))
            )
            with urllib.request.urlopen(address) as page:
                assert page.status == 200
            other = socket.gethostbyname(socket.gethostname())
            if not other.startswith("127."):
                port = int(address.rpartition(":")[2].rstrip("/"))
                with pytest.raises(OSError, match=r"refused"):
                    socket.create_connection((other, port), timeout=2)
        finally:
            os.killpg(server.pid, 15)
            server.wait(timeout=20)


def test_make_alone_prints_every_target() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^  make ([a-z-]+) ", printed, re.MULTILINE)
    assert set(targets) >= {
        *("train-ae", "train-classifier", "train-mlp", "tensorboard"),
        *("test", "test-all", "lint", "clean"),
    }
