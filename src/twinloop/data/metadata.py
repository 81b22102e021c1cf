"""A folder of images that are listed, with their labels, in metadata.csv or metadata.jsonl."""

import csv
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinloop.data.folder import images_of, inside, split_folders
from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import DatasetDict

NAMES = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"
"""The column of file names; `x_file_name` is that of further images, which are called `x`."""
WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}")
TRUTH = {"true": True, "false": False}


def read_listed(root: Path, files: list[Path]) -> "DatasetDict":
    """Read the images that are listed below `root`, with all columns of the lists.

    An image belongs to the split in whose folder it is. A split of which none is listed has all its
    images, without labels.

    Raises:
        UserError: a list that cannot be read, or an image that is listed twice.
    """
    import datasets

    rows: dict[str, dict[str, Any]] = {}
    for path in files:
        if path.name in NAMES:
            for row in _rows(path, root):
                if row[FILE] in rows:
                    raise UserError(f"data.source: {path} lists {row[FILE]} twice")
                rows[row[FILE]] = row
    every: list[dict[str, Any]] = []
    sizes = {}
    for split, place in split_folders(root).items():
        listed = [rows[name] for name in inside(place, rows)]
        found = listed or [{FILE: str(path)} for path in images_of(inside(place, files))]
        sizes[split] = range(len(every), len(every) + len(found))
        every += found
    columns = {name: _typed([row.get(name) for row in every]) for row in every for name in row}
    try:
        whole = datasets.Dataset.from_dict(columns)
    except Exception as error:  # of several types, where values are of several
        raise UserError(
            f"data.source: the lists of {root}: {' '.join(str(error).split())}"
        ) from error
    for name in [name for name in columns if name.endswith(FILE)]:
        image = name.removesuffix(FILE).removesuffix("_") or "image"
        whole = whole.rename_column(name, image)
        whole = whole.cast_column(image, datasets.Image(decode=False))
    return datasets.DatasetDict({split: whole.select(part) for split, part in sizes.items()})


def _rows(path: Path, root: Path) -> list[dict[str, Any]]:
    """The rows of a list, with the whole paths of files.

    Raises:
        UserError: it cannot be read, has no column `file_name`, or names a file outside of `root`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _table(text) if path.suffix == ".csv" else list(map(json.loads, text.splitlines()))
    except (ValueError, csv.Error) as error:
        what = "is not in UTF-8" if isinstance(error, UnicodeDecodeError) else f"{error}"
        raise UserError(f"data.source: {path}: {what}; save it again") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get(FILE), str):
            columns = list(row) if isinstance(row, dict) else row
            raise UserError(
                f"data.source: {path} row {number}: no {FILE}, only {columns}; the column of the "
                f"images' files has to be called {FILE}"
            )
        for name in [name for name in row if name.endswith(FILE) and row[name]]:
            row[name] = os.path.normpath(path.parent / row[name].replace("\\", "/"))
            if not inside(root, [row[name]]):
                raise UserError(f"data.source: {path} row {number}: {row[name]} is not in {root}")
    return rows


def _table(text: str) -> list[dict[str, Any]]:
    """The rows of a CSV file, whatever its separator is; empty cells are None."""
    lines = text.splitlines(keepends=True)
    separator = max(",;\t", key=(lines or [""])[0].count)
    head, *rows = [
        [cell.strip() or None for cell in row]
        for row in csv.reader(lines, delimiter=separator)
        if row
    ] or [[]]
    return [
        {name: cell for name, cell in zip(head, row, strict=False) if name is not None}
        for row in rows
    ]


def _typed(values: list[Any]) -> list[Any]:
    """The cells of a column as numbers or truth values where all of them are; 01 is a word."""
    texts = [value for value in values if value is not None]
    if not all(isinstance(text, str) for text in texts):
        return values
    if all(text.lower() in TRUTH for text in texts):
        return [value and TRUTH[value.lower()] for value in values]
    if all(map(WHOLE_NUMBER.fullmatch, texts)):
        return [value and int(value) for value in values]
    return values
