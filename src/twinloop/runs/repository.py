"""The user's git repository as a run found it: its commit, and what was changed since."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from twinloop.files import atomic_write

LARGEST = 1_000_000
"""Bytes of a difference, and of all new files in it, that are kept."""
PATIENCE = 10
"""Seconds for a call of git, which looks at every file of the repository."""
LOGS = ":(exclude,glob)**/lightning_logs/**"


class Repository(NamedTuple):
    """The repository of the current folder; None for what is unknown."""

    commit: str | None = None
    changed: bool | None = None
    """Whether files differ from the commit, those aside that git ignores, and lightning_logs."""
    difference: bytes = b""
    """What differs, for `git apply`, new files included; comments name what is too large."""

    def write(self, run: Path) -> None:
        """Write the difference to `changes.patch` in the folder `run`, or remove an older one."""
        path = run / "changes.patch"
        path.unlink(missing_ok=True)
        if self.difference:
            with atomic_write(path) as part:
                part.write_bytes(self.difference)


def find_repository() -> Repository:
    """The repository of the current folder; its index and its objects are not touched."""
    found = _git("rev-parse", "HEAD", "--show-toplevel", "--absolute-git-dir")
    if found is None:
        return Repository()
    commit, root, own = os.fsdecode(found).splitlines()
    status = _git("status", "--porcelain", "-z", "--untracked-files=all", "--", ":/", LOGS)
    if not status:
        return Repository(commit, None if status is None else False)
    new = [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry.startswith(b"?? ")]
    kept, left_out = _within_limit(Path(root), new)
    difference = _difference(root, Path(own, "index"), kept)
    if difference is None or len(difference) > LARGEST:
        difference, left_out = b"", [*left_out, "what differs from the commit"]
    comments = "".join(f"# too large to be kept: {name!r}\n" for name in left_out)
    return Repository(commit, True, comments.encode() + difference)


def _within_limit(root: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """The new files that are at most `LARGEST` bytes together, and the others."""
    kept: list[str] = []
    size = 0
    for name in names:
        size += (root / name).lstat().st_size
        if size > LARGEST:
            return kept, names[len(kept) :]
        kept.append(name)
    return kept, []


def _difference(root: str, index: Path, new: list[str]) -> bytes | None:
    """What differs from the commit, by a copy of the index that knows the `new` files."""
    with TemporaryDirectory() as folder:
        copy = Path(folder, "index")
        shutil.copy(index, copy)
        given = {"GIT_INDEX_FILE": str(copy)}
        if new:
            add = ("--literal-pathspecs", "-C", root, "add", "--intent-to-add")
            names = os.fsencode("\0".join(new))
            _git(*add, "--pathspec-from-file=-", "--pathspec-file-nul", names=names, given=given)
        plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        return _git("-C", root, "diff", *plain, *prefixes, "HEAD", given=given)


def _git(*args: str, names: bytes = b"", given: Mapping[str, str] | None = None) -> bytes | None:
    """The output of a git command, or None if it fails."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"} | dict(given or {})
    try:
        done = subprocess.run(
            ["git", *args], input=names, capture_output=True, env=environment, timeout=PATIENCE
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
