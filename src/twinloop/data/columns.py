"""Which columns of a data set are the images and the labels, and what the labels stand for."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features

Labels = NDArray[np.int64]
LABELS = ("label", "labels")
UNLABELLED = -1
"""The label of every test image where a data set keeps its labels to itself, as on the Hub."""
SEVERAL = "or several where data.target is labels"
MANY_CLASSES = 10
"""With more classes than this, at least two images of train per class are expected."""


def image_column_of(features: "Features", asked: str | None) -> str:
    """The column of images: the one that was asked for, or the only one.

    Raises:
        UserError: there is none, there are several, or it is something else.
    """
    from datasets import Image

    found = [name for name, kind in features.items() if isinstance(kind, Image)]
    if asked is not None:
        return _asked(asked, found, "image", features)
    if not found:
        raise UserError(f"data.source: the data set has no image column among {list(features)}")
    return _only(found, "image")


def label_column_of(features: "Features", asked: str | None) -> str | None:
    """The column of labels: the one that was asked for, of class names, `label`, or of numbers.

    Returns:
        None where no column can be one.

    Raises:
        UserError: there are several, or the one that was asked for cannot be it.
    """
    from datasets import ClassLabel, Value

    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    types = {name: kind.dtype for name, kind in features.items() if isinstance(kind, Value)}
    numbers = [name for name, dtype in types.items() if dtype.startswith(("int", "uint"))]
    words = [name for name, dtype in types.items() if dtype in ("bool", "string", "large_string")]
    if asked is not None:
        return _asked(asked, classes + numbers + words, "label", features)
    labels = [name for name in features if name.lower() in LABELS]
    found = classes or [name for name in numbers + words if name in labels] or numbers
    if not found and labels:
        return _asked(labels[0], [], "label", features)  # several labels for an image
    return _only(found, "label") if found else None


def is_guess(column: str, asked: str | list[str] | None, features: "Features") -> bool:
    """Whether a label column is one only because no other can be: numbers of another name."""
    named = hasattr(features[column], "names") or column.lower() in LABELS
    return asked is None and not named


def _asked(column: str, fitting: list[str], what: str, features: "Features") -> str:
    option = f"data.{what}_column"
    if column not in features:
        raise UserError(f"{option}: there is no column {column!r}, only {list(features)}")
    if column not in fitting:
        kind = features[column]
        is_list = "List" in type(kind).__name__
        several = f"; one label per image is supported, {SEVERAL}" if is_list else ""
        raise UserError(
            f"{option}: {column!r} has the type {kind}, which cannot be the {what} column{several}"
        )
    return column


def _only(found: list[str], what: str) -> str:
    if len(found) > 1:
        raise UserError(
            f"data.source: several columns can be the {what} column: {found}; "
            f"set data.{what}_column"
        )
    return found[0]


def read_labels(
    splits: "dict[str, Dataset]", column: str
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """The labels of every split as numbers of classes, and the names of the classes.

    Without class names the distinct values of train are the classes, in their order. Labels of
    test that are all -1, or all missing, become `UNLABELLED`, as those of all splits where all of
    train are -1.

    Raises:
        UserError: a label that is missing, that train does not have, or too many classes.
    """
    names = getattr(splits["train"].features[column], "names", None)
    # Without the other columns, or each row's image would be decoded here for nothing.
    values = {name: split.select_columns([column])[:][column] for name, split in splits.items()}
    if set(values["train"]) == {UNLABELLED}:
        return {name: np.full(len(split), UNLABELLED) for name, split in splits.items()}, ()
    none = (None, UNLABELLED, str(UNLABELLED))  # -1 is a word where classes are words
    unlabelled = all(value in none for value in values.get("test", [0]))
    for split, found in values.items():
        missing = next((row for row, value in enumerate(found) if value is None), None)
        if missing is not None and not (split == "test" and unlabelled):
            raise UserError(f"{split} row {missing}: column {column!r} has no label")
    classes = _classes_of(values["train"], column) if names is None else range(len(names))
    numbers = {value: number for number, value in enumerate(classes)}
    labels = {}
    for split, found in values.items():
        if split == "test" and unlabelled:
            labels[split] = np.full(len(found), UNLABELLED, np.int64)
        else:
            labels[split] = _numbers(found, numbers, split, column)
    return labels, tuple(names or map(str, classes))


def _classes_of(values: list[Any], column: str) -> list[Any]:
    """The distinct values of train in their order, without -1."""
    classes = sorted(set(values) - {UNLABELLED})
    _check_words(classes, column)
    if len(classes) > max(MANY_CLASSES, len(values) // 2):
        raise UserError(
            f"column {column!r} has {len(classes):,} different values for {len(values):,} images "
            "of train, which are no classes; set data.label_column, or data.target to numbers"
        )
    return classes


def _check_words(classes: list[Any], column: str) -> None:
    """Refuse lists of classes that are written as one word.

    Raises:
        UserError: a class such as `cat, dog` where cat and dog are classes too.
    """
    for name in map(str, classes):
        parts = {part.strip() for part in re.split("[,;|]", name)}
        if len(parts) > 1 and parts <= set(map(str, classes)):
            raise UserError(
                f"column {column!r} has {name!r}, which is several of its other values; one label "
                f"per image is supported, {SEVERAL}"
            )


def _numbers(values: list[Any], numbers: dict[Any, int], split: str, column: str) -> Labels:
    found = np.array([numbers.get(value, UNLABELLED) for value in values], np.int64)
    wrong = np.flatnonzero(found == UNLABELLED)
    if len(wrong):
        known = ", ".join(map(str, list(numbers)[:10])) + (", ..." if len(numbers) > 10 else "")
        raise UserError(
            f"{split} row {wrong[0]}: column {column!r} is {values[wrong[0]]!r}, which is no class "
            f"of train ({known}; {len(wrong)} such rows); correct or remove them"
        )
    return found
