"""`python -m twinloop cache`: the decoded data sets on this machine, their sizes and ages."""

import json
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from twinloop.data.source import cache_folder
from twinloop.errors import Parser, UserError


def main(args: list[str]) -> int:
    """List the decoded data sets; with `--clear` remove all that no process is decoding.

    Raises:
        UserError: a data set cannot be removed.
    """
    parser = Parser("twinloop cache", allow_abbrev=False)
    parser.add_argument("--cache_dir", type=Path, help="another folder than $TWINLOOP_CACHE")
    parser.add_argument("--clear", action="store_true", help="remove them; runs decode anew")
    asked = parser.parse_args(args)
    folder = cache_folder(asked.cache_dir)
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    found = sorted(path for path in folder.glob("*-*") if path.is_dir()) if folder.is_dir() else []
    table = Table(title=f"decoded data sets in {folder}", title_justify="left")
    for column in ("data set", "shape", "MB", "days old"):
        table.add_column(column, justify="left" if column == "data set" else "right")
    for path in found:
        table.add_row(*_row(path))
    console.print(table if found else f"no decoded data sets in {folder}")
    if asked.clear:
        removed = [path for path in found if _remove(path)]
        console.print(f"removed {len(removed)} of {len(found)}")
    return 0


def _row(path: Path) -> tuple[str, str, str, str]:
    """Name, shape, size and age of a data set, which may be incomplete."""
    files = [file for file in path.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    days = (time.time() - path.stat().st_mtime) / 86_400
    facts = path / "spec.json"
    shape = "x".join(map(str, json.loads(facts.read_text())["spec"][2])) if facts.exists() else "-"
    return path.name, shape, f"{size / 1e6:,.1f}", f"{days:.0f}"


def _remove(path: Path) -> bool:
    """Remove a data set, unless it is just being decoded."""
    lock = path.with_name(f"{path.name.partition('.part-')[0]}.lock")
    try:
        with FileLock(lock, timeout=0):
            shutil.rmtree(path)
    except Timeout:
        return False
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}") from error
    return True
