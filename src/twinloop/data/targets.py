"""Targets that are not one class: numbers, several labels, images."""

import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Target = Literal["class", "numbers", "labels", "image"]
"""What the label column has: a class, a number or a list of them, several labels, an image."""
Splits = dict[str, "Dataset"]


def read_numbers(splits: Splits, columns: list[str]) -> dict[str, NDArray[np.float32]]:
    """The numbers of each row, float32 `[N, K]`: those of all columns side by side.

    Raises:
        UserError: a value that is no finite number, or lists of several lengths.
    """
    found = {}
    for name, split in splits.items():
        rows = split.select_columns(columns)[:]
        parts = [_numbers(rows[column], f"{name} row", column) for column in columns]
        found[name] = np.concatenate(parts, axis=1)
    return found


def _numbers(values: list[Any], where: str, column: str) -> NDArray[np.float32]:
    for row, value in enumerate(values):
        try:
            numbers = np.array(value, np.float32)
        except (TypeError, ValueError):
            numbers = np.array(np.nan)
        if not np.isfinite(numbers).all() or numbers.size != np.size(values[0]):
            raise UserError(
                f"{where} {row}: column {column!r} is {value!r}, which is not "
                f"{np.size(values[0])} finite numbers; correct or remove it"
            )
    return np.array(values, np.float32).reshape(len(values), -1)


def read_several(
    splits: Splits, column: str
) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Which labels each row has, ones in zeros `[N, labels]`, and the names of the labels.

    A cell is a list of labels, or a text of several separated by `,`, `;` or `|`. Without names of
    its own the labels are the distinct values of train, in their order.

    Raises:
        UserError: a cell that is missing, or a label that train does not have.
    """
    cells = {
        name: [_labels(cell) for cell in split.select_columns([column])[:][column]]
        for name, split in splits.items()
    }
    feature = splits["train"].features[column]
    names = getattr(getattr(feature, "feature", None), "names", None)
    known = range(len(names)) if names else sorted({x for cell in cells["train"] for x in cell})
    place = {label: number for number, label in enumerate(known)}
    found = {}
    for name, rows in cells.items():
        found[name] = np.zeros((len(rows), len(place)), np.float32)
        for row, labels in enumerate(rows):
            for label in labels:
                if label not in place:
                    raise UserError(
                        f"{name} row {row}: column {column!r} has {label!r}, which is no label of "
                        "train; correct or remove it"
                    )
                found[name][row, place[label]] = 1
    return found, tuple(names or map(str, known))


def _labels(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        return [part for part in map(str.strip, re.split("[,;|]", cell)) if part]
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def columns_of(splits: Splits, asked: str | list[str] | None, target: Target) -> list[str]:
    """The columns of a target that is no class, which have to be named.

    Raises:
        UserError: they are not named, or not there.
    """
    columns = [asked] if isinstance(asked, str) else asked or []
    if not columns:
        raise UserError(f"data.target is {target!r}; set data.label_column to where they are")
    if len(columns) > 1 and target != "numbers":
        raise UserError(f"data.label_column: several columns are numbers, and not {target!r}")
    features = splits["train"].features
    for column in columns:
        if column not in features:
            raise UserError(
                f"data.label_column: there is no column {column!r}, only {list(features)}"
            )
        if (type(features[column]).__name__ == "Image") != (target == "image"):
            raise UserError(
                f"data.label_column: {column!r} has the type {features[column]}, which is not "
                f"{target!r}; set data.target"
            )
    return columns
