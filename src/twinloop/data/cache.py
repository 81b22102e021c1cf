"""Decoded data sets on disk: uint8 arrays that are made once and mapped from then on."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from twinloop.data.arrays import add_to_hash, write_kept
from twinloop.data.columns import (
    UNLABELLED,
    Labels,
    image_column_of,
    is_guess,
    label_column_of,
    read_labels,
)
from twinloop.data.decode import Decoded
from twinloop.data.decode_splits import JOURNAL, Reading, decode_splits
from twinloop.data.journal import read_lines
from twinloop.data.parts import Part, named_splits, parts_of
from twinloop.data.pool import UNGUARDED
from twinloop.data.source import Source
from twinloop.data.spec import DataSpec
from twinloop.data.split import hold_out_val
from twinloop.data.targets import columns_of, read_numbers, read_several
from twinloop.errors import UserError, escape_unprintable

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 3
"""Part of every cache key: raise it when the files below change their form."""
DEFAULT = Reading()


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, mapped from disk or on a GPU.

    Labels may be another target: float32 numbers `[N, K]`, ones and zeros `[N, labels]`, or images.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_labels(self) -> bool:
        """Whether its images have labels."""
        return self.labels.ndim > 1 or bool((self.labels != UNLABELLED).all())

    def on_gpu(self, device: torch.device) -> "Split":
        """Copy to a GPU if that takes at most half of its free memory; otherwise stay on disk."""
        free, _ = torch.cuda.mem_get_info(device)
        if self.images.nbytes > free / 2:
            return self
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DecodedData:
    """A whole data set. `test_split` names the official split, or says that it was held out."""

    spec: DataSpec
    train: Split
    test: Split
    test_split: str
    val_rows: int = 0
    """How many rows at the end of train are a validation split of the data set's own."""
    notes: tuple[str, ...] = ()
    """What a user should know: images that were left out, missing labels."""

    def rows(self, val_size: float, seed: int) -> dict[str, Tensor]:
        """Row indices of train, val (its own, or held out of train) and test."""
        if self.val_rows:
            rows = torch.arange(len(self.train))
            train, val = rows[: -self.val_rows], rows[-self.val_rows :]
        else:
            labels = self.train.labels
            classes = labels if labels.ndim == 1 else torch.zeros(len(labels), dtype=torch.int64)
            train, val = hold_out_val(classes, val_size, seed)
        return {"train": train, "val": val, "test": torch.arange(len(self.test))}


def load(source: Source, cache: Path, reading: Reading = DEFAULT) -> DecodedData:
    """Map the decoded form of `source`, decoding it first where the cache does not have it.

    Any number of processes may call this at once: one decodes, the others wait. A process that
    is killed while it decodes leaves nothing under the final name, and the next one resumes.

    Raises:
        UserError: columns that cannot be told apart, an empty split, a label that train has not,
            images that cannot be decoded, images of different sizes without `image_size`, a
            cache that cannot be written to, a process that ended while it decoded, or a script
            without its guard.
    """
    # Caches of classes are older than other targets.
    wanted = [FORMAT, source.key, *(reading[:-1] if reading.target == "class" else reading)]
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    folder = cache / f"{source.name}-{key}"
    if not folder.is_dir():
        # A script without its guard is run again by each process that it has start to decode,
        # and would wait there for the lock of the one that waits for it.
        if _runs_again():
            raise UserError(UNGUARDED)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _build(folder, source, reading)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"data.cache_dir: cannot write to {cache}: {reason}") from error
    return _map(folder)


def _runs_again() -> bool:
    """Whether this process is only being started, and still runs its parent's script."""
    again = sys.modules.get("__mp_main__")
    return again is not None and again is not sys.modules["__main__"]


def _map(folder: Path) -> DecodedData:
    facts = json.loads((folder / "spec.json").read_text())
    name, fingerprint, shape, class_names = facts["spec"]
    spec = DataSpec(name, fingerprint, tuple(shape), tuple(class_names))

    def split(name: str) -> Split:
        # "c" is copy on write: torch takes only arrays that may be written to
        images = np.load(folder / f"{name}-images.npy", mmap_mode="c")
        labels = np.load(folder / f"{name}-labels.npy", mmap_mode="c")
        return Split(torch.from_numpy(images), torch.from_numpy(labels))

    notes = tuple(facts["notes"])
    return DecodedData(
        spec, split("train"), split("test"), facts["test_split"], facts["val_rows"], notes
    )


def _build(folder: Path, source: Source, reading: Reading) -> None:
    """Decode into a folder beside `folder`, then rename it: all of it or nothing.

    What a killed or stopped process has decoded is left there for the next one. The lock is ours.
    """
    splits, notes = source.read()
    place = folder.with_name(f"{folder.name}.part-unfinished")
    journal = place / JOURNAL
    if not journal.exists():
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(exist_ok=True)
    try:
        facts = _write(place, splits, source.name, reading)
        facts["notes"] = [*notes, *facts["notes"]]
        # Names are shown in terminals, tables and pages, a line each.
        shown = [escape_unprintable(name) for name in facts.pop("classes")]
        name = escape_unprintable(source.name)
        facts["spec"] = [name, _fingerprint(place), facts.pop("shape"), shown]
        (place / "spec.json").write_text(json.dumps(facts, indent=2))
        journal.unlink(missing_ok=True)
        for file in place.iterdir():
            with file.open("r+b") as written:  # Windows flushes only what is open for writing
                os.fsync(written.fileno())
        place.rename(folder)
    except BaseException as error:
        if isinstance(error, Exception) or len(read_lines(journal)[0]) < 2:  # nothing is done
            shutil.rmtree(place, ignore_errors=True)
        raise


def _write(
    place: Path, splits: "dict[str, Dataset]", source: str, reading: Reading
) -> dict[str, Any]:
    """Write the arrays of images and labels to `place`, and return the facts of `_map`."""
    named, notes = named_splits(splits, source)
    features = named["train"].features
    image_column = image_column_of(features, reading.image_column)
    labels, classes, label_column = _targets(named, reading)
    strata = labels["train"] if reading.target == "class" else np.zeros(len(named["train"]), int)
    parts, test_split = parts_of(named, strata)
    done, shape = decode_splits(place, parts, image_column, reading)
    is_class = reading.target == "class"
    notes += _notes(done, label_column, list(features), labels.get("test") if is_class else None)
    if is_class and label_column and is_guess(label_column, reading.label_column, features):
        notes.append(f"the labels are column {label_column!r}; set data.label_column to another")
    keep = _readable(parts, done)
    if done.unreadable:
        _leave_out(place, keep)
    for array, kept in keep.items():
        of_array = [labels[part.split][part.numbers] for part in parts if part.array == array]
        np.save(place / f"{array}-labels.npy", np.concatenate(of_array)[kept])
    if reading.target == "image":
        assert label_column is not None
        _decode_targets(place, parts, label_column, reading)
    val_rows = sum(
        int(keep[part.array][part.first :].sum())
        for part in parts
        if part.array == "train" and part.first
    )
    return {
        "shape": shape,
        "classes": classes,
        "test_split": test_split,
        "val_rows": val_rows,
        "notes": notes,
    }


def _targets(
    named: "dict[str, Dataset]", reading: Reading
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...], str | None]:
    """The target of every row of each split, the names of classes or labels, and the column."""
    if reading.target == "class":
        if isinstance(reading.label_column, list):
            raise UserError("data.label_column: several columns need data.target 'numbers'")
        column = label_column_of(named["train"].features, reading.label_column)
        if column:
            return *read_labels(named, column), column
    else:
        columns = columns_of(named, reading.label_column, reading.target)
        if reading.target == "numbers":
            return read_numbers(named, columns), (), columns[0]
        if reading.target == "labels":
            return *read_several(named, columns[0]), columns[0]
        column = columns[0]  # of images, which are decoded later
    return {name: np.full(len(rows), UNLABELLED) for name, rows in named.items()}, (), column


def _decode_targets(place: Path, parts: list[Part], column: str, reading: Reading) -> None:
    """Decode the images of another column in place of the labels."""
    folder = place / "targets"
    folder.mkdir(exist_ok=True)
    decode_splits(folder, parts, column, reading)
    for array in {part.array for part in parts}:
        (folder / f"{array}-images.npy").replace(place / f"{array}-labels.npy")
    shutil.rmtree(folder)


def _notes(
    done: Decoded, label_column: str | None, columns: list[str], test: Labels | None
) -> list[str]:
    """What a user should know of how the images and labels were read."""
    notes = []
    if not label_column:
        notes.append(f"no labels: no column of labels among {columns}")
    elif test is not None and (test == UNLABELLED).all():
        notes.append("test has no labels: no metrics on it that need them")
    return notes + done.notes


def _readable(parts: list[Part], done: Decoded) -> dict[str, NDArray[np.bool_]]:
    """Which rows of each array hold an image.

    Raises:
        UserError: those of an array that has none.
    """
    wrong = {(split, row) for split, row, _ in done.unreadable}
    keep = {}
    for array in dict.fromkeys(part.array for part in parts):
        rows = [(part.split, row) for part in parts if part.array == array for row in part.numbers]
        keep[array] = np.array([row not in wrong for row in rows])
        if not keep[array].any():
            raise UserError(f"data.source: no image of {array} can be read")
    return keep


def _leave_out(place: Path, keep: dict[str, NDArray[np.bool_]]) -> None:
    """Remove the other rows from the arrays of images."""
    for array, kept in keep.items():
        write_kept(place / f"{array}-images.npy", kept, place / f"{array}-images.kept")
    (place / JOURNAL).unlink()  # from here on the arrays are not those of its plan
    for array in keep:
        (place / f"{array}-images.kept").rename(place / f"{array}-images.npy")


def _fingerprint(place: Path) -> str:
    digest = hashlib.sha256()
    for name in ("train-images", "train-labels", "test-images", "test-labels"):
        add_to_hash(digest, place / f"{name}.npy")
    return digest.hexdigest()
