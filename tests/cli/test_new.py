"""An experiment of one's own, and its test, run as soon as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import encode_as_windows, error_line, make_quick
from twinloop.cli import main

ROOT = Path(__file__).parents[2]
MLP = "experiments/mlp.yaml"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one experiment and the settings of pytest, and the current one."""
    make_quick(monkeypatch)
    folder = tmp_path / "checkout"
    for name in (MLP, "pyproject.toml", "tests/conftest.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("like", [(), ("--like", MLP)], ids=["template", "copy"])
def test_a_new_experiment_trains(
    like: tuple[str, ...], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(checkout)
    assert main(["new", "My-idea-2", *like]) == 0
    written, test, following = capsys.readouterr().out.splitlines()
    assert (written, test) == ("experiments/My-idea-2.yaml", "tests/test_My_idea_2.py")
    assert files(checkout).keys() - before.keys() == {checkout / written, checkout / test}
    lint = [sys.executable, "-m", "ruff", "check", "--no-cache", test]
    assert subprocess.run(lint, check=False).returncode == 0
    command = following.removeprefix("next: twinloop ").split()
    assert command == ["fit", "--config", written]
    short = ["--data.source", "digits", "--trainer.max_epochs", "1"]
    assert main([*command, *short, "--trainer.limit_train_batches", "2"]) == 0
    assert Path("lightning_logs/My-idea-2/version_0-digits/results.json").is_file()


@pytest.mark.usefixtures("checkout")
def test_a_copy_keeps_every_character_on_any_system(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("experiments/one.yaml").write_bytes("experiment: one\nmodel: Őµ\n".encode())
    encode_as_windows(monkeypatch)
    assert main(["new", "two", "--like", "experiments/one.yaml"]) == 0
    copied = Path("experiments/two.yaml").read_bytes().decode()
    assert copied.endswith("\nexperiment: two\nmodel: Őµ\n")


@pytest.mark.usefixtures("checkout")
def test_the_header_has_every_field_and_claims_no_measurement() -> None:
    for name, like in (("one", []), ("other", ["--like", MLP])):
        assert main(["new", name, *like]) == 0
        lines = Path(f"experiments/{name}.yaml").read_text().splitlines()
        header = [re.match(r"# (\w+): +(\S.*)", line) for line in lines if line.startswith("#")]
        found = {match[1]: match[2] for match in header if match}
        assert list(found) == ["Goal", "Command", "Machine", "Time", "Result"]
        assert found["Command"].endswith(f"--config experiments/{name}.yaml")
        assert {found[key] for key in ("Machine", "Time", "Result")} == {"not measured yet"}
        assert max(map(len, lines)) <= 100
    copied, original = (
        yaml.safe_load(Path(f"experiments/{name}.yaml").read_text()) for name in ("other", "mlp")
    )
    assert copied == original | {"experiment": "other"}


@pytest.mark.slow
@pytest.mark.usefixtures("checkout")
def test_the_generated_test_passes_and_can_fail() -> None:
    assert main(["new", "my-idea"]) == 0
    path = Path("tests/test_my_idea.py")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run()
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    seed = '"--seed_everything", str(len(loop)), "--loop", loop,'
    path.write_text(path.read_text().replace('"--loop", loop,', seed))
    assert "1 failed" in run().stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["../mine"], "new: '../mine' is not a valid name; use letters, digits and dashes"),
        (["--", "-mine"], "new: '-mine' is not a valid name"),
        (["été"], "new: 'été' is not a valid name"),
        (["mine\n"], r"new: 'mine\\n' is not a valid name"),
        (["mlp"], "new: experiments/mlp.yaml already exists; choose another name"),
        (["a" * 300], "new: a name of 300 letters is too long; use up to 100"),
        (["cli"], "new: tests/test_cli.py already exists"),
        (["mine", "--like", "no.yaml"], "--like: cannot read no.yaml: No such file or directory"),
        (["mine", "--like", "tests"], "--like: cannot read tests: Is a directory"),
        (["mine", "--like", "list.yaml"], "--like: list.yaml is not an experiment: no line"),
        (["mine", "--like", "image"], "--like: cannot read image: it is not text"),
        ([], ".*the following arguments are required: name"),
        (["one", "two"], ".*unrecognized arguments: two"),
        (["--like"], ".*argument --like: expected one argument"),
        (["7"], "new: YAML would not read '7' as a string; add a letter"),
        (["null"], "new: YAML would not read 'null' as a string; add a letter"),
    ],
)
def test_a_mistake_is_refused_in_one_line_and_nothing_is_written(
    args: list[str], message: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tests" / "test_cli.py").write_text("")
    (checkout / "list.yaml").write_text("- 1\n")
    (checkout / "image").write_bytes(b"\xff\xd8")
    before = {path: path.stat().st_size for path in checkout.rglob("*")}
    assert main(["new", *args]) == 2
    assert re.match(f"error: {message}", error_line(capsys))
    assert before == {path: path.stat().st_size for path in checkout.rglob("*")}


def test_outside_of_a_checkout_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 2
    advice = "or begin a project: twinloop new mine --project FOLDER\n"
    assert error_line(capsys).endswith(advice)
    assert not list(tmp_path.iterdir())


def test_a_project_has_an_experiment_its_test_and_what_surrounds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "My-idea", "--project", "a/project"]) == 0
    printed = capsys.readouterr().out.splitlines()
    own = ["a/project/experiments/My-idea.yaml", "a/project/tests/test_My_idea.py"]
    assert printed == [*own, "next: cd a/project; make debug; make test"]
    assert files(Path("a/project")).keys() == {
        *map(Path, own),
        *(Path("a/project", name) for name in ("Makefile", ".gitignore", "networks.py")),
        Path("a/project/experiments/presets/debug.yaml"),
    }
    preset = Path("a/project/experiments/presets/debug.yaml").read_text()
    assert preset == (ROOT / "experiments/presets/debug.yaml").read_text()
    make = ["make", "--dry-run", "--directory", "a/project", "debug", "PYTHON=python"]
    done = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    two = "--config experiments/My-idea.yaml --config experiments/presets/debug.yaml"
    assert f"python -m twinloop fit {two}" in done
    for name, message in (("x.y", "new: 'x.y' is not a valid name"), ("other", "--project: a/p")):
        before = files(tmp_path)
        assert main(["new", name, "--project", "a/project"]) == 2
        assert error_line(capsys).startswith(f"error: {message}")
        assert files(tmp_path) == before
