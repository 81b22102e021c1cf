"""A folder of images that are listed, with their labels, in metadata.csv or metadata.jsonl."""

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinloop.data.folder import images_of, inside, split_folders
from twinloop.data.parts import SPLITS
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

    An image belongs to the split in whose folder it is, or that the column `split` names. A split
    of which none is listed has all its images, without labels.

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
    places = split_folders(root, images_of(files))
    listed = {split: [rows[name] for name in inside(places[split], rows)] for split in places}
    every: list[dict[str, Any]] = []
    sizes = {}
    for split, found in (listed if len(listed) > 1 else _by_column(listed["train"])).items():
        found = found or [{FILE: str(path)} for path in images_of(inside(places[split], files))]
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


def _by_column(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows by split if each names one in the column `split`; else all of them as train."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(SPLITS.get(str(row.get("split")).lower(), ""), []).append(row)
    return {"train": rows} if "" in found or "train" not in found else found


def _rows(path: Path, root: Path) -> list[dict[str, Any]]:
    """The rows of a list, with the whole paths of files.

    Raises:
        UserError: it cannot be read, has no column `file_name`, or names a file outside of `root`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Not splitlines, which also splits at other characters, in the middle of a value.
        lines = (line for line in text.split("\n") if line.strip())
        rows = _table(text) if path.suffix == ".csv" else list(map(json.loads, lines))
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
    """The rows of a CSV file, whatever its separator is; empty cells are None.

    Raises:
        ValueError: a row with more cells than there are columns, or two columns of one name.
    """
    separator = max(",;\t", key=text.partition("\n")[0].count)
    head, *rows = [
        [cell.strip() or None for cell in row]
        for row in csv.reader(io.StringIO(text), delimiter=separator)
        if row
    ] or [[]]
    for name in filter(None, head):
        if head.count(name) > 1:
            raise ValueError(f"there are {head.count(name)} columns {name!r}")
    for number, row in enumerate(rows, 1):
        if any(row[len(head) :]):
            raise ValueError(f"row {number} has {len(row)} cells for {len(head)} columns")
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
