"""Array files (.npy) too large for memory: allocated, filtered and hashed a piece at a time.

Pages of a mapped file count as memory of the process that reads them, so files are read here.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hashlib import _Hash

PIECE = 1 << 24
"""Bytes that are read at a time."""


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make a new file of uint8 zeros, with room for all of them on the disk.

    Raises:
        OSError: the disk is full.
    """
    path.unlink(missing_ok=True)  # a killed process's children may still write to the old file
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            # Take the room now: on a full disk, writing to a mapped hole would be fatal.
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_kept(path: Path, keep: NDArray[np.bool_], target: Path) -> None:
    """Write the rows of a uint8 file that `keep [N]` is true for to another file."""
    with path.open("rb") as file, target.open("wb") as kept:
        _, *row = shape = _read_header(file)
        np.lib.format.write_array_header_1_0(
            kept, {"descr": "|u1", "fortran_order": False, "shape": (int(keep.sum()), *row)}
        )
        size = int(np.prod(row))
        rows = max(1, PIECE // size)
        for first in range(0, shape[0], rows):
            found = np.fromfile(file, np.uint8, size * min(rows, shape[0] - first))
            kept.write(found.reshape(-1, size)[keep[first : first + rows]].data)


def add_to_hash(digest: "_Hash", path: Path) -> None:
    """Hash the name of a file, its shape and its values."""
    with path.open("rb") as file:
        digest.update(f"{path.stem}{_read_header(file)}".encode())
        while piece := file.read(PIECE):
            digest.update(piece)


def _read_header(file: BinaryIO) -> tuple[int, ...]:
    """Read up to the values of an array, and return its shape."""
    assert np.lib.format.read_magic(file) == (1, 0)
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape
