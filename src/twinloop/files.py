"""Files that are there whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
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
    except BaseException:
        part.unlink(missing_ok=True)
        raise
