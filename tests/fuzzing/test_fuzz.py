"""Whatever is in a file, a command does what it should or ends in one line that names the file."""

import pytest
import yaml

from tests.fuzzing.experiments import EXPERIMENT
from tests.fuzzing.fuzz import KINDS, fuzz
from tests.fuzzing.sandbox import SHORT, Case, Sandbox, fault, run_alone


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """One for all kinds, with what a run leaves."""
    made = Sandbox(tmp_path_factory.mktemp("fuzz"))
    made.train()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_inputs_of_each_kind(kind: str, sandbox: Sandbox) -> None:
    found = fuzz(kind, 3, sandbox)
    assert not found["faults"], "\n".join(found["faults"])
    assert found["inputs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_inputs_of_each_kind(kind: str, sandbox: Sandbox) -> None:
    found = fuzz(kind, 40, sandbox, first=1)
    assert not found["faults"], "\n".join(found["faults"])
    assert found["inputs"] >= min(40, 4)  # hypothesis stops where it has seen all there is


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_each_kind_in_a_process_of_its_own(kind: str, sandbox: Sandbox) -> None:
    found = fuzz(kind, 2, sandbox, first=3, run=run_alone)
    assert not found["faults"], "\n".join(found["faults"])
    assert found["inputs"] == 2


def test_a_fault_would_be_found(sandbox: Sandbox) -> None:
    path = sandbox.new("experiment.yaml")
    path.write_text(yaml.safe_dump(EXPERIMENT))
    command = ["fit", "--config", str(path), *SHORT]
    assert fault(Case(command, path), sandbox) == ("done", "")
    assert fault(Case(command, path, refused=True), sandbox) == ("wrong", "was not refused")
    assert fault(Case(command, path, prints="nothing"), sandbox)[0] == "wrong"
    missing = [*command, "--data.batch_size", "0"]
    assert "does not name" in fault(Case(missing, "elsewhere.yaml"), sandbox)[1]
    outside = [*command[:3], "--trainer.max_epochs", "1", "--run", "../elsewhere"]
    assert "writes outside" in fault(Case(outside, path), sandbox)[1]
