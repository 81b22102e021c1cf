"""Decoded data sets on disk: uint8 arrays that are made once and mapped from then on."""

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from twinloop.data.columns import (
    UNLABELLED,
    Labels,
    image_column_of,
    label_column_of,
    read_labels,
)
from twinloop.data.decode import Decoded
from twinloop.data.decode_splits import Part, Reading, decode_splits
from twinloop.data.pool import UNGUARDED
from twinloop.data.source import Source
from twinloop.data.spec import DataSpec
from twinloop.data.split import hold_out_val, stratified
from twinloop.errors import UserError, escape_unprintable

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 2
"""Part of every cache key: raise it when the files below change their form."""
HELD_OUT = 1 / 6
"""The share of train that becomes test where a data set has no official split of its own."""
SPLITS = ("test",), ("validation", "valid", "val", "dev")
"""Names of the test and of the validation split; the latter is test where there is no other."""


DEFAULT = Reading()


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, mapped from disk or on a GPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_labels(self) -> bool:
        """Whether its images have labels."""
        return bool((self.labels != UNLABELLED).all())

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
            train, val = hold_out_val(self.train.labels, val_size, seed)
        return {"train": train, "val": val, "test": torch.arange(len(self.test))}


def load(source: Source, cache: Path, reading: Reading = DEFAULT) -> DecodedData:
    """Map the decoded form of `source`, decoding it first where the cache does not have it.

    Any number of processes may call this at once: one decodes, the others wait. A process that
    is killed while it decodes leaves nothing under the final name.

    Raises:
        UserError: columns that cannot be told apart, an empty split, a label that train has not,
            images that cannot be decoded, images of different sizes without `image_size`, a
            cache that cannot be written to, a process that ended while it decoded, or a script
            without its guard.
    """
    wanted = [FORMAT, source.key, *reading]
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
    """Decode into a temporary folder beside `folder`, then rename it: all of it or nothing."""
    for left_over in folder.parent.glob(f"{glob.escape(folder.name)}.part-*"):
        shutil.rmtree(left_over)  # its process was killed; the lock is ours
    splits, notes = source.read()
    parts = _parts(splits, source.name)
    place = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    place.chmod(0o777 & ~_umask())
    try:
        facts = _write(place, parts, reading)
        facts["notes"] = [*notes, *facts["notes"]]
        # Names are shown in terminals, tables and pages, a line each.
        shown = [escape_unprintable(name) for name in facts.pop("classes")]
        name = escape_unprintable(source.name)
        facts["spec"] = [name, _fingerprint(place), facts.pop("shape"), shown]
        (place / "spec.json").write_text(json.dumps(facts, indent=2))
        for file in place.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _parts(splits: "dict[str, Dataset]", source: str) -> list[Part]:
    """Train, validation where there is a test split too, and test.

    Validation stands behind train in the same array: a row is either, as where it is held out.
    """
    test, val = (next((name for name in names if name in splits), None) for names in SPLITS)
    test, val = (test, val) if test else (val, None)
    for name in ("train", val, test):
        if name and name not in splits:
            raise UserError(f"data.source: {source} has no split {name!r}, only {list(splits)}")
        if name and len(splits[name]) == 0:
            raise UserError(f"data.source: the split {name!r} of {source} is empty")
    train = splits["train"]
    parts = [Part("train", train, "train", 0)]
    if val:
        parts.append(Part(val, splits[val], "train", len(train)))
    if test:
        parts.append(Part(test, splits[test], "test", 0))
    return parts


def _write(place: Path, parts: list[Part], reading: Reading) -> dict[str, Any]:
    """Write the arrays of images and labels to `place`, and return the facts of `_map`."""
    rows = {part.split: part.rows for part in parts}
    features = rows["train"].features
    image_column = image_column_of(features, reading.image_column)
    label_column = label_column_of(features, reading.label_column)
    if label_column:
        found, classes = read_labels(rows, label_column)
    else:
        found = {name: np.full(len(split), UNLABELLED, np.int64) for name, split in rows.items()}
        classes = ()
    labels = {
        array: np.concatenate([found[part.split] for part in parts if part.array == array])
        for array in dict.fromkeys(part.array for part in parts)
    }
    done, shape = decode_splits(place, parts, image_column, reading)
    notes = _notes(done, label_column, list(features), labels)
    val_rows = sum(len(part.rows) for part in parts if part.array == "train" and part.first)
    if done.unreadable:
        val_rows -= sum(
            part.first > 0 and split == part.split for split, _ in done.unreadable for part in parts
        )
        labels = _leave_out(place, parts, labels, set(done.unreadable))
    last = parts[-1]
    test_split = last.split
    if last.array != "test":
        test_split = f"{HELD_OUT:.1%} of train, held out"
        labels = _hold_out(place, labels["train"])
    for name, array in labels.items():
        np.save(place / f"{name}-labels.npy", array)
    return {
        "shape": shape,
        "classes": classes,
        "test_split": test_split,
        "val_rows": val_rows,
        "notes": notes,
    }


def _notes(
    done: Decoded, label_column: str | None, columns: list[str], labels: dict[str, Labels]
) -> list[str]:
    """What a user should know of how the images and labels were read."""
    notes = []
    if not label_column:
        notes.append(f"no labels: no column of labels among {columns}")
    if label_column and (labels.get("test", np.zeros(1)) == UNLABELLED).all():
        notes.append("test has no labels: no metrics on it that need them")
    if done.animated:
        first = min(done.animated)
        notes.append(f"of {len(done.animated):,} animations the first frame is read ({first})")
    if done.unreadable:
        reasons = "; ".join(done.reasons)
        notes.append(f"{len(done.unreadable):,} images that cannot be read left out: {reasons}")
    return notes


def _leave_out(
    place: Path, parts: list[Part], labels: dict[str, Labels], rows: set[tuple[str, int]]
) -> dict[str, Labels]:
    """Remove rows, given by split and row, from the arrays; return the labels without them."""
    kept = {}
    for array, found in labels.items():
        keep = np.ones(len(found), bool)
        for part in parts:
            if part.array == array:
                keep[[part.first + row for split, row in rows if split == part.split]] = False
        if not keep.any():
            raise UserError(f"data.source: no image of {array} can be read")
        images = np.load(place / f"{array}-images.npy", mmap_mode="r")
        np.save(place / "kept.npy", images[keep])
        (place / "kept.npy").rename(place / f"{array}-images.npy")
        kept[array] = found[keep]
    return kept


def _hold_out(place: Path, labels: Labels) -> dict[str, Labels]:
    """Split the decoded train images into train and test, stratified, the same for any seed."""
    size = max(1, round(len(labels) * HELD_OUT))
    if size == len(labels):
        raise UserError("data.source: the split 'train' has only 1 image, too few to train on")
    train, test = (rows.numpy() for rows in stratified(torch.from_numpy(labels), size, seed=0))
    images = np.load(place / "train-images.npy")
    np.save(place / "train-images.npy", images[train])
    np.save(place / "test-images.npy", images[test])
    return {"train": labels[train], "test": labels[test]}


def _fingerprint(place: Path) -> str:
    digest = hashlib.sha256()
    for name in ("train-images", "train-labels", "test-images", "test-labels"):
        array = np.load(place / f"{name}.npy", mmap_mode="r")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
