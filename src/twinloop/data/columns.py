"""The columns of a Hugging Face data set that hold images and labels, and the labels."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features

Labels = NDArray[np.int64]


def find_columns(
    features: "Features", image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """Find the columns of images and of labels by the types of the features.

    Class labels take precedence over columns of integers.

    Raises:
        UserError: no suitable column, several, or an unsuitable column as argument.
    """
    from datasets import ClassLabel, Image, Value

    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    integers = [
        name
        for name, kind in features.items()
        if isinstance(kind, Value) and kind.dtype.startswith(("int", "uint"))
    ]
    return (
        _choose("image", image_column, images, images, features),
        _choose("label", label_column, classes + integers, classes or integers, features),
    )


def _choose(
    what: str, column: str | None, suitable: list[str], preferred: list[str], features: "Features"
) -> str:
    """The column of the argument, if it is suitable; without an argument the only preferred one."""
    columns = list(features)
    if column is not None and column not in features:
        raise UserError(f"data.{what}_column: there is no column {column!r}, only {columns}")
    if column is not None and column not in suitable:
        raise UserError(
            f"data.{what}_column: {column!r} has the type {features[column]}, which cannot be "
            f"the {what} column"
        )
    if column is None and not preferred:
        raise UserError(f"data.source: the data set has no {what} column among {columns}")
    if column is None and len(preferred) > 1:
        raise UserError(
            f"data.source: several columns can be the {what} column: {preferred}; "
            f"pass --data.{what}_column"
        )
    return column or preferred[0]


def read_labels(
    splits: "dict[str, Dataset]", column: str
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Read the labels of every split, int64 `[N]`, and the names of the classes.

    Without class names the classes are the integers up to the largest label of train.

    Raises:
        UserError: the split and the row of a label that is missing or out of range.
    """
    labels = {name: _values(split, name, column) for name, split in splits.items()}
    train = labels["train"]
    names = getattr(splits["train"].features[column], "names", None)
    if names is None:
        names = map(str, range(int(train.max()) + 1))
        if train.max() >= len(train):
            raise UserError(
                f"train row {train.argmax()}: column {column!r} is {train.max()}, more than a "
                f"class index among {len(train)} images can be; pass --data.label_column"
            )
    names = tuple(names)
    for split, values in labels.items():
        wrong = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(wrong):
            raise UserError(
                f"{split} row {wrong[0]}: column {column!r} is {values[wrong[0]]}, outside "
                f"0 to {len(names) - 1} ({len(wrong)} such rows); correct or remove them"
            )
    return labels, names


def _values(split: "Dataset", name: str, column: str) -> Labels:
    # Only this column, or the image of every row would be decoded too.
    values = split.select_columns([column]).with_format("numpy")[:][column]
    missing = np.flatnonzero(~np.isfinite(values.astype(np.float64)))
    if len(missing):
        raise UserError(f"{name} row {missing[0]}: column {column!r} has no label")
    labels: Labels = values.astype(np.int64)
    return labels
