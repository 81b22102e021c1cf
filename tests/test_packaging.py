"""What installs the project states the same everywhere, and a wheel of it needs no checkout."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from twinloop import __main__ as program
from twinloop import cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = dict(
    re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
)
LOCK = (ROOT / "requirements.lock").read_text()


def names(requirements: list[Any]) -> set[str]:
    return {match[0] for item in requirements if (match := re.match(r"[\w-]+", str(item)))}


def test_every_requirement_is_pinned_and_every_pin_is_required() -> None:
    groups = PROJECT["dependency-groups"]
    assert groups["dev"] == [{"include-group": "test"}, {"include-group": "lint"}]
    required = names(PROJECT["project"]["dependencies"] + groups["test"] + groups["lint"])
    required |= names(PROJECT["project"]["optional-dependencies"]["export"])  # for its tests
    assert required - {"pre-commit"} == set(PINNED)


def test_the_lock_has_every_pin_with_hashes_and_no_address() -> None:
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    locked = [block.partition("==") for block in blocks]
    versions = {(name.partition("[")[0], rest.split()[0]) for name, _, rest in locked}
    assert len(blocks) > 100
    assert {(name.replace("_", "-"), version) for name, version in PINNED.items()} <= versions
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in LOCK
    assert not re.search(r"^--(?!hash)", LOCK, re.M)


def test_continuous_integration_runs_the_pythons_that_are_claimed() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["fast"]["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert tested == claimed == ["3.11", "3.12", "3.13", "3.14"]


def test_the_hooks_of_commits_call_the_tools_that_make_lint_calls() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [" ".join(re.sub(r" --\S+", "", hook["entry"]).split()) for hook in hooks]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert entries == [".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy"]
    assert all(entry in lint for entry in entries)


def test_what_a_container_copies_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+)", text, re.M)
    assert copied == ["requirements.lock", "."]
    assert ".venv/installed" in (ROOT / "Makefile").read_text()
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make .venv/installed"


def test_the_console_script_finds_classes_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PROJECT["project"]["scripts"] == {"twinloop": "twinloop.__main__:run"}
    monkeypatch.chdir(tmp_path)
    Path("my_networks_18.py").write_text("answer = 42\n")
    monkeypatch.setattr(sys, "argv", ["twinloop", "fit"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    answers: list[tuple[list[str], int]] = []

    def main(args: list[str]) -> int:
        monkeypatch.chdir("/")  # as the parser does to the folder of an experiment file
        answers.append((args, importlib.import_module("my_networks_18").answer))
        return 3

    monkeypatch.setattr(cli, "main", main)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit, match="3"):
            program.run()
    finally:
        signal.signal(signal.SIGINT, before)
        sys.modules.pop("my_networks_18", None)
    assert answers == [(["fit"], 42)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_writes_a_project_that_trains_and_passes_its_test(tmp_path: Path) -> None:
    installed, source = tmp_path / "installed", tmp_path / "source"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(installed)}

    def run(*command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # A copy, in which the build leaves its files.
    tracked = run("git", "ls-files", "-z", "src", "pyproject.toml", "README.md", folder=ROOT)
    for name in [*tracked.rstrip("\0").split("\0"), "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    quiet = ("--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "install", *quiet, "--target", str(installed), str(source))
    assert (installed / "twinloop" / "py.typed").is_file()

    twinloop = str(installed / "bin" / "twinloop")
    where = run(sys.executable, "-c", "import twinloop; print(twinloop.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    assert run(twinloop, "--version") == f"twinloop {PROJECT['project']['version']}\n"
    run(twinloop, "new", "mine", "--project", "project")
    project = tmp_path / "project"
    make = ("make", f"PYTHON={sys.executable}")
    run(*make, "debug", "LOOP=homemade", folder=project)
    assert list(project.glob("lightning_logs/debug/version_0-*/results.json"))
    own = ("--model.network", "networks.Small", "--data.source", "digits")
    few = ("--trainer.max_steps", "1", "--data.batch_size", "32")
    run(twinloop, "fit", "--config", "experiments/mine.yaml", *own, *few, folder=project)
    assert " 1 passed" in run(*make, "test", folder=project)
