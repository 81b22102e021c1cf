"""Files that are there whole, or not at all, and that any program can read."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinloop.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Have a file written under a temporary name beside `path`, flush it to disk, and rename it.

    Whatever happens in between, `path` is what it was before or the new file, and whole.

    Raises:
        OSError: it cannot be written.
        UserError: the folder that `path` and its own folder belong to is gone.
    """
    try:
        path.parent.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        # Made anew, the folder would have this file and nothing else.
        raise UserError(f"cannot write {path}: the folder {path.parent.parent} is gone") from error
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def as_json(value: Any) -> str:
    """`value` as indented JSON, with null for what is no number: JSON knows neither NaN nor inf."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
