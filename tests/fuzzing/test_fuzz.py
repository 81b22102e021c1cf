"""A command with any file either works or ends in one line that names the file."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.fuzzing import sandbox as testbed
from tests.fuzzing.experiments import EXPERIMENT
from tests.fuzzing.fuzz import KINDS, fuzz
from tests.fuzzing.sandbox import SHORT, Case, Sandbox, fault, run_alone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """One for all kinds, with what a run leaves."""
    made = Sandbox(tmp_path_factory.mktemp("fuzz"))
    made.train()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_many_inputs_of_each_kind_and_one_in_a_new_process(kind: str, sandbox: Sandbox) -> None:
    for found, least in (
        (fuzz(kind, 8, sandbox, first=1), 4),  # hypothesis stops where it has seen all there is
        (fuzz(kind, 1, sandbox, first=3, run=run_alone), 1),
    ):
        assert not found["faults"], "\n".join(found["faults"])
        assert found["inputs"] >= least


def experiment(sandbox: Sandbox) -> Path:
    """A sound one; whatever is tried is removed after it."""
    path = sandbox.new("experiment.yaml")
    path.write_text(yaml.safe_dump(EXPERIMENT))
    return path


def test_a_fault_would_be_found(sandbox: Sandbox) -> None:
    def tried(*options: str, file: str = "", refused: bool = False, prints: str = "") -> str:
        path = experiment(sandbox)
        command = ["fit", "--config", str(path), *SHORT, *options]
        return fault(Case(command, file or path, prints, refused=refused), sandbox)[1]

    assert tried() == ""
    assert tried(refused=True) == "was not refused"
    assert tried(prints="nothing").startswith("prints")
    assert "does not name" in tried("--data.batch_size", "0", file="elsewhere.yaml")
    assert "does what it should not" in tried("--run", "../elsewhere")
    assert "leaves what is not whole: ['none']" in tried("--trainer.fast_dev_run", "1")


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda: Path("/tmp/twinloop-elsewhere").mkdir(), "os.mkdir /tmp/twinloop-elsewhere"),
        (lambda: os.system("true"), "os.system"),
        (lambda: subprocess.run(["true"], check=True), "subprocess.Popen ['true']"),
        (lambda: (Path("lightning_logs") / "a.json").write_text("{"), "leaves what is not whole"),
        (lambda: (Path("lightning_logs") / "a.part").write_text(""), "a.part is left"),
    ],
)
def test_harm_would_be_found(harm: Callable[[], object], what: str, sandbox: Sandbox) -> None:
    def run(_: list[str]) -> tuple[int, str, str]:
        harm()
        return 2, "", "error: experiment.yaml\n"

    try:
        assert what in fault(Case(["fit"], "experiment.yaml"), sandbox, run)[1]
    finally:
        shutil.rmtree("/tmp/twinloop-elsewhere", ignore_errors=True)


def test_a_command_that_takes_too_much_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin(_: list[str]) -> int:
        while True:
            pass

    def fill(_: list[str]) -> int:
        return len(b"x" * 300_000_000) * 0

    monkeypatch.setattr(testbed, "SECONDS", 0.2)
    monkeypatch.setattr(testbed, "main", spin)
    assert testbed.run([])[0] == "TimeoutError: over 0.2 s"
    monkeypatch.setattr(testbed, "SECONDS", 10)
    monkeypatch.setattr(testbed, "MEGABYTES", 100)
    monkeypatch.setattr(testbed, "main", fill)
    assert re.fullmatch(r"MemoryError: had \d+ MB more than before", str(testbed.run([])[0]))
