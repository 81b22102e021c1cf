"""Atomic writes, and JSON that any program can read."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinloop.errors import UserError


def expanded(path: str | Path) -> Path:
    """A path with `~` for the home folder and `$NAME` for a variable written out.

    Raises:
        UserError: a variable that is not set, or is empty, unless there is a path of that name;
            or the home of a user who does not exist.
    """
    for name in re.findall(r"\$\{?(\w+)", str(path)):
        if not os.environ.get(name) and not Path(path).exists():
            raise UserError(f"{path}: the variable {name} is not set")
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Atomic write: yield a temporary path beside `path`, then fsync and rename it.

    Whatever happens, `path` is the old file or the complete new one.

    Raises:
        OSError: it cannot be written. Only the last folder of `path` is created.
    """
    # Without parents: if a run folder was deleted, it is not created again for this one file.
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        part.replace(path)
        _flush_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk, or a power failure could undo it; Windows cannot open a folder."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_whole(content: Any, path: Path) -> None:
    """Save by `torch.save` in an atomic write.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    import torch

    with atomic_write(path) as part, part.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # On a full disk torch still closes its archive, and raises the error of closing.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def as_json(value: Any) -> str:
    """`value` as indented JSON, with null for NaN and infinity, which JSON does not have."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
