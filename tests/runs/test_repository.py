"""A run keeps the commit of the user's repository, and what differs from it."""

import subprocess
from pathlib import Path

import pytest

from twinloop.runs import repository
from twinloop.runs.repository import Repository, find_repository

USER = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def git(*args: str, folder: Path = Path()) -> str:
    command = ["git", *USER, "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit of the repository around the current folder."""
    root = tmp_path / "project"
    (root / "own").mkdir(parents=True)
    monkeypatch.chdir(root)
    git("init", "--quiet")
    Path(".gitignore").write_text("secret.txt\n")
    Path("old.py").write_text("old = 1\n")
    Path("image.bin").write_bytes(bytes(range(256)))
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.chdir(root / "own")
    return git("rev-parse", "HEAD")


def test_an_unchanged_repository_is_its_commit(commit: str) -> None:
    logs = Path("lightning_logs", "mlp", "results.json")
    logs.parent.mkdir(parents=True)
    logs.write_text("{}")
    Path("..", "secret.txt").write_text("ignored\n")
    assert find_repository() == Repository(commit, False)


def test_the_difference_restores_every_file_and_the_index_stays(
    commit: str, tmp_path: Path
) -> None:
    Path("..", "old.py").write_text("old = 2\n")
    Path("..", "image.bin").write_bytes(bytes(range(255, -1, -1)))
    Path("new ü[x].py").write_text("new = 1\n")
    before = git("status", "--porcelain")
    found = find_repository()
    assert (found.commit, found.changed) == (commit, True)
    assert git("status", "--porcelain") == before

    run, clone = tmp_path / "run", tmp_path / "clone"
    run.mkdir()
    found.write(run)
    git("clone", "--quiet", "..", str(clone))
    git("apply", str(run / "changes.patch"), folder=clone)
    assert (clone / "old.py").read_text() == "old = 2\n"
    assert (clone / "image.bin").read_bytes() == bytes(range(255, -1, -1))
    assert (clone / "own" / "new ü[x].py").read_text() == "new = 1\n"
    # A run that is resumed without changes keeps none.
    Repository(commit, False).write(run)
    assert not list(run.iterdir())


def test_what_is_too_large_is_named_only(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "LARGEST", 1000)
    Path("a.py").write_text("a = 1\n")
    Path("b.bin").write_bytes(b"b" * 1000)
    difference = find_repository().difference
    assert difference.startswith(b"# too large to be kept: 'own/b.bin'\ndiff --git a/own/a.py")
    assert b"bbb" not in difference
    Path("..", "old.py").write_text("new = 1\n" * 200)
    found = find_repository()
    assert found.changed
    names = b"# too large to be kept: 'own/b.bin'\n# too large to be kept: 'what differs from the "
    assert found.difference == names + b"commit'\n"
    assert found.commit == commit


def test_outside_of_a_repository_and_without_git_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert find_repository() == Repository()
    monkeypatch.setenv("PATH", "")
    assert find_repository() == Repository()
