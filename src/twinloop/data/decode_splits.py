"""Decode the splits of a data set into array files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from twinloop.data import pool
from twinloop.data.arrays import allocate
from twinloop.data.decode import (
    MAX_PIXELS,
    ColourError,
    Decoded,
    Encoded,
    Rows,
    height_and_width,
    is_grey,
    name_of,
    open_image,
)
from twinloop.data.journal import Journal, read_lines
from twinloop.data.parts import Part
from twinloop.data.targets import Target
from twinloop.errors import UserError

JOURNAL = "decoded.jsonl"
LISTED = 50
"""How many images that cannot be read an error lists."""
ROWS_PER_TASK = 2_000
PIXELS_PER_TASK = MAX_PIXELS
"""A task has fewer rows where images are large, so that a kill costs seconds and little waits."""


class Reading(NamedTuple):
    """How the images and labels of a data set are read: options of `ImageDataModule`."""

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    background: str = "white"
    image_column: str | None = None
    label_column: str | list[str] | None = None
    skip_unreadable: bool = False
    target: Target = "class"


def decode_splits(
    place: Path, parts: list[Part], column: str, reading: Reading
) -> tuple[Decoded, tuple[int, int, int]]:
    """Decode all parts into `<array>-images.npy`; return channels, height and width too.

    Rows that a killed process has decoded into `place` are not decoded again. Where the first image
    is grey and a later one is not, all are decoded again in colour.

    Raises:
        UserError: images that cannot be read, or are of several sizes.
    """
    from datasets import Image

    encoded = [
        part._replace(
            rows=part.rows.select_columns([column]).cast_column(column, Image(decode=False))
        )
        for part in parts
    ]
    shape, pixels = _shape(encoded[0], column, reading)
    rows = max(1, min(ROWS_PER_TASK, PIXELS_PER_TASK // pixels))
    tasks = Tasks(place, encoded, column, reading, rows)
    in_colour = (3, *shape[1:])
    if read_lines(place / JOURNAL)[0][:1] == [tasks.plan(in_colour)]:
        shape = in_colour
    try:
        done = _decode(tasks, shape)
    except ColourError:
        shape = in_colour
        done = _decode(tasks, shape)
    if done.unreadable and not reading.skip_unreadable:
        raise unreadable("data.source", done.reasons)
    return done, shape


class Tasks(NamedTuple):
    """The rows of all parts, to be decoded so many at a time."""

    place: Path
    parts: list[Part]
    column: str
    reading: Reading
    most: int
    """Rows of a task."""

    @property
    def sizes(self) -> dict[str, int]:
        """The rows of each array."""
        sizes: dict[str, int] = {}
        for part in self.parts:
            sizes[part.array] = sizes.get(part.array, 0) + len(part.rows)
        return sizes

    def plan(self, shape: tuple[int, int, int]) -> dict[str, Any]:
        """What has to be the same for rows that another process has decoded to be used."""
        sizes = self.sizes
        return {"shape": [*shape], "rows": sizes, "most": self.most, "Pillow": PIL.__version__}

    def all(self) -> Iterator[tuple[Part, int]]:
        """Each task, as a part and the first of its rows."""
        for part in self.parts:
            for first in range(0, len(part.rows), self.most):
                yield part, first

    def read(self, part: Part, first: int) -> Rows:
        """The encoded images of a task."""
        found = slice(first, first + self.most)
        return Rows(
            self.place / f"{part.array}-images.npy",
            part.first + first,
            [_encoded(row) for row in part.rows[found][self.column]],
            split=part.split,
            numbers=part.numbers[found],
            resize=self.reading.image_size is not None,
            background=self.reading.background,
            convert=self.reading.channels is not None,
        )


def _decode(tasks: Tasks, shape: tuple[int, int, int]) -> Decoded:
    """Run the tasks that are not done yet, into arrays of images of this shape."""
    journal = Journal(tasks.place / JOURNAL, tasks.plan(shape))
    if journal.is_new:
        for array, rows in tasks.sizes.items():
            allocate(tasks.place / f"{array}-images.npy", (rows, *shape))
        journal.begin()
    left = (
        tasks.read(part, first)
        for part, first in tasks.all()
        if (part.array, part.first + first) not in journal.tasks
    )
    return pool.decode_all(left, tasks.most, journal, sum(tasks.sizes.values()))


def unreadable(where: str, reasons: list[str]) -> UserError:
    """The error about images that cannot be read; it lists all reasons up to `LISTED`."""
    advice = "set data.skip_unreadable to true to go without"
    if len(reasons) == 1:
        return UserError(f"{reasons[0]}; {advice}")
    more = [f"and {len(reasons) - LISTED} more"] * (len(reasons) > LISTED)
    what = f"{where}: {len(reasons)} images cannot be read; {advice}"
    return UserError(what, *reasons[:LISTED], *more)


def _shape(train: Part, column: str, reading: Reading) -> tuple[tuple[int, int, int], int]:
    """Channels, height and width of the first image that can be read, and the pixels it has."""
    reason = ""
    for number, row in zip(train.numbers, train.rows, strict=True):
        encoded = _encoded(row[column])
        try:
            with open_image(encoded) as image:
                channels = reading.channels or (1 if is_grey(image) else 3)
                height, width = reading.image_size or height_and_width(image)
                return (channels, height, width), image.width * image.height
        except UserError as error:
            reason = reason or f"{name_of(train.split, number, encoded)}: {error}"
    raise UserError(f"{reason}; none of the {len(train.rows):,} images of train can be read")


def _encoded(row: dict[str, Any] | None) -> Encoded | None:
    if row is None:
        return None
    encoded: Encoded | None = row["bytes"] or row["path"]
    return encoded
