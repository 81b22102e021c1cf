"""Files that are there whole, or not at all, and that any program can read."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def expanded(path: str | Path) -> Path:
    """A path with `~` for the home folder and `$NAME` for a variable written out."""
    return Path(os.path.expandvars(path)).expanduser()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Have a file written under a temporary name beside `path`, flush it to disk, and rename it.

    Whatever happens in between, `path` is what it was before or the new file, and whole.

    Raises:
        OSError: it cannot be written; the folder above its own has to be there.
    """
    # What is above is not made anew where it was deleted: it would have this file and nothing else.
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        # Until the folder is on disk too, the old name may come back with the power.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save_whole(content: Any, path: Path) -> None:
    """Save what torch can, under `path`, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    import torch

    with atomic_write(path) as part, part.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch ends its archive even where the disk is full, and tells only of that end.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def as_json(value: Any) -> str:
    """`value` as indented JSON, with null for what is no number: JSON knows neither NaN nor inf."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
