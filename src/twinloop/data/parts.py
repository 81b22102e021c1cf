"""The splits of a data set by their names, and where their rows stand in the decoded arrays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from twinloop.data.columns import Labels
from twinloop.data.split import stratified
from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders, and the splits of the Hub's data sets, are called, in small letters."""
HELD_OUT = 1 / 6
"""The share of train that becomes test where a data set has no official split of its own."""


class Part(NamedTuple):
    """Rows of a split that stand together in an array, from its row `first` on."""

    split: str
    rows: "Dataset"
    array: str
    first: int
    numbers: Sequence[int]
    """The number of each row in its split."""


def named_splits(
    splits: "dict[str, Dataset]", source: str
) -> tuple["dict[str, Dataset]", list[str]]:
    """Train, validation and test by these names, and a note on other splits.

    Raises:
        UserError: there is no train, or one of them is empty.
    """
    named: dict[str, Dataset] = {}
    notes = []
    for name, rows in splits.items():
        split = SPLITS.get(name.lower())
        if split is None or split in named:
            notes.append(f"the split {name!r} of {len(rows):,} images is not used")
        elif len(rows) == 0:
            raise UserError(f"data.source: the split {name!r} of {source} is empty")
        else:
            named[split] = rows
    if "train" not in named:
        raise UserError(f"data.source: {source} has no split 'train', only {list(splits)}")
    return named, notes


def parts_of(named: "dict[str, Dataset]", labels: Labels) -> tuple[list[Part], str]:
    """Where the rows of each split stand, and the name of the test split.

    Validation stands behind train in the same array where there is a test split too, and is the
    test split where there is none. Without either, test is held out of train, stratified, the same
    for any seed.
    """
    train = named["train"]
    every = range(len(train))
    if "test" in named:
        parts = [Part("train", train, "train", 0, every)]
        if "validation" in named:
            val = named["validation"]
            parts.append(Part("validation", val, "train", len(train), range(len(val))))
        test = "test"
    elif "validation" in named:
        parts = [Part("train", train, "train", 0, every)]
        test = "validation"
    else:
        size = max(1, round(len(labels) * HELD_OUT))
        if size == len(labels):
            raise UserError("data.source: the split 'train' has only 1 image, too few to train on")
        rest, held_out = (rows.tolist() for rows in stratified(torch.from_numpy(labels), size, 0))
        return [
            Part("train", train.select(rest), "train", 0, rest),
            Part("train", train.select(held_out), "test", 0, held_out),
        ], f"{HELD_OUT:.1%} of train, held out"
    rows = named[test]
    return [*parts, Part(test, rows, "test", 0, range(len(rows)))], test
