"""Files that are there whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
