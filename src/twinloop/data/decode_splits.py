"""Decode the splits of a data set into array files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twinloop.data import pool
from twinloop.data.decode import (
    ColourError,
    Decoded,
    Encoded,
    Rows,
    height_and_width,
    is_grey,
    open_image,
)
from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

LISTED = 50
"""How many images that cannot be read an error lists."""


class Reading(NamedTuple):
    """How the images and labels of a data set are read: options of `ImageDataModule`."""

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    background: str = "white"
    image_column: str | None = None
    label_column: str | None = None
    skip_unreadable: bool = False


class Part(NamedTuple):
    """A split of the data set, and from which row on it stands in which array."""

    split: str
    rows: "Dataset"
    array: str
    first: int


def decode_splits(
    place: Path, parts: list[Part], column: str, reading: Reading
) -> tuple[Decoded, tuple[int, int, int]]:
    """Decode all parts into `<array>-images.npy`; return channels, height and width too.

    Where the first image is grey and a later one is not, all are decoded again in colour.
    """
    from datasets import Image

    encoded = [
        part._replace(
            rows=part.rows.select_columns([column]).cast_column(column, Image(decode=False))
        )
        for part in parts
    ]
    channels, height, width = _shape(encoded[0], column, reading)
    total = sum(len(part.rows) for part in parts)
    try:
        _allocate(place, parts, (channels, height, width))
        done = pool.decode_all(_tasks(place, encoded, column, reading), total)
    except ColourError:
        channels = 3
        _allocate(place, parts, (channels, height, width))
        done = pool.decode_all(_tasks(place, encoded, column, reading), total)
    if done.unreadable and not reading.skip_unreadable:
        reasons = done.reasons
        advice = "pass --data.skip_unreadable true to go without"
        if len(reasons) == 1:
            raise UserError(f"{reasons[0]}; {advice}")
        more = [f"and {len(reasons) - LISTED} more"] * (len(reasons) > LISTED)
        lines = "\n  ".join([*reasons[:LISTED], *more])
        raise UserError(f"{len(reasons)} images cannot be read; {advice}\n  {lines}")
    return done, (channels, height, width)


def _shape(train: Part, column: str, reading: Reading) -> tuple[int, int, int]:
    """Channels, height and width of the first image that can be read."""
    reasons = []
    for row in range(len(train.rows)):
        encoded = _encoded(train.rows[row][column])
        try:
            if encoded is None:
                raise UserError("has no image")
            with open_image(encoded) as image:
                channels = reading.channels or (1 if is_grey(image) else 3)
                height, width = reading.image_size or height_and_width(image)
                return channels, height, width
        except UserError as error:
            where = f"{encoded}: " if isinstance(encoded, str) else ""
            reasons.append(f"train row {row}: {where}{error}")
    raise UserError(f"{reasons[0]}; none of the {len(reasons):,} images of train can be read")


def _allocate(place: Path, parts: list[Part], shape: tuple[int, int, int]) -> None:
    for array in dict.fromkeys(part.array for part in parts):
        path = place / f"{array}-images.npy"
        rows = sum(len(part.rows) for part in parts if part.array == array)
        np.lib.format.open_memmap(path, "w+", np.uint8, (rows, *shape))
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with path.open("r+b") as file:
                # Take the room now: on a full disk, writing to a mapped hole would be fatal.
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _tasks(place: Path, parts: list[Part], column: str, reading: Reading) -> Iterator[Rows]:
    """The encoded images of all parts, `pool.ROWS_PER_TASK` at a time."""
    for part in parts:
        for row in range(0, len(part.rows), pool.ROWS_PER_TASK):
            images = [
                _encoded(found) for found in part.rows[row : row + pool.ROWS_PER_TASK][column]
            ]
            yield Rows(
                place / f"{part.array}-images.npy",
                part.first + row,
                images,
                split=part.split,
                split_row=row,
                resize=reading.image_size is not None,
                background=reading.background,
                convert=reading.channels is not None,
            )


def _encoded(row: dict[str, Any] | None) -> Encoded | None:
    if row is None:
        return None
    encoded: Encoded | None = row["bytes"] or row["path"]
    return encoded
