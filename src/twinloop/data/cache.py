"""Decoded data sets on disk: uint8 arrays that are written once and memory-mapped."""

import glob
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from twinloop.data.columns import Labels, find_columns, read_labels
from twinloop.data.decode_parallel import check_main_guard, decode_splits
from twinloop.data.source import Source
from twinloop.data.spec import DataSpec
from twinloop.data.split import stratified
from twinloop.errors import UserError, escape_unprintable

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 1
"""Part of every cache key; increased when the format of the files changes."""
TEST_SPLITS = ("test", "validation", "valid", "val")
HELD_OUT = 1 / 6
"""The share of train that becomes test if a data set has no official test split."""


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, mapped from disk or on a GPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def on_gpu(self, device: torch.device) -> "Split":
        """Copy to a GPU if that takes at most half of its free memory; otherwise stay on disk."""
        free, _ = torch.cuda.mem_get_info(device)
        if self.images.nbytes > free / 2:
            return self
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DecodedData:
    """A decoded data set."""

    spec: DataSpec
    train: Split
    test: Split
    test_split: str
    """The name of the official split, or a statement that it was held out of train."""


def load(
    source: Source,
    cache: Path,
    *,
    image_size: tuple[int, int] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> DecodedData:
    """Map the decoded arrays of `source`, which are decoded first if they are not in the cache.

    Any number of processes may call this at once: one decodes, the others wait. A process that is
    killed while it decodes leaves nothing under the final name.

    Raises:
        UserError: ambiguous columns, an empty split, a label out of range, an image that cannot be
            decoded, images of different sizes without `image_size`, a cache that cannot be
            written, a decoding process that ended early, or a script without a `__main__` guard.
    """
    options = [FORMAT, source.key, image_size, image_column, label_column]
    key = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
    folder = cache / f"{source.name}-{key}"
    if not folder.is_dir():
        check_main_guard()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _build(folder, source, image_size, image_column, label_column)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"data.cache_dir: cannot write to {cache}: {reason}") from error
    return _map(folder)


def _map(folder: Path) -> DecodedData:
    facts = json.loads((folder / "spec.json").read_text())
    test_split = facts.pop("test_split")
    facts["image_shape"] = tuple(facts["image_shape"])
    facts["class_names"] = tuple(facts["class_names"])

    def split(name: str) -> Split:
        # Copy on write, because torch requires writable arrays.
        images = np.load(folder / f"{name}-images.npy", mmap_mode="c")
        labels = np.load(folder / f"{name}-labels.npy", mmap_mode="c")
        return Split(torch.from_numpy(images), torch.from_numpy(labels))

    return DecodedData(DataSpec(**facts), split("train"), split("test"), test_split)


def _build(
    folder: Path,
    source: Source,
    image_size: tuple[int, int] | None,
    image_column: str | None,
    label_column: str | None,
) -> None:
    """Decode into a temporary folder beside `folder`, then rename it, so that it is complete."""
    for left_over in folder.parent.glob(f"{glob.escape(folder.name)}.part-*"):
        shutil.rmtree(left_over)  # of a killed process, because this one has the lock
    splits, test_split = _official_splits(source)
    image_column, label_column = find_columns(splits["train"].features, image_column, label_column)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir()
    try:
        labels, classes = read_labels(splits, label_column)
        shape = decode_splits(part, splits, image_column, image_size)
        if test_split is None:
            test_split = f"{HELD_OUT:.1%} of train, held out"
            labels = _hold_out(part, labels["train"])
        for name, values in labels.items():
            np.save(part / f"{name}-labels.npy", values)
        # Names are printed on one line in terminals, tables and pages.
        classes = tuple(map(escape_unprintable, classes))
        spec = DataSpec(escape_unprintable(source.name), _fingerprint(part), shape, classes)
        facts = spec._asdict() | {"test_split": test_split}
        (part / "spec.json").write_text(json.dumps(facts, indent=2))
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _official_splits(source: Source) -> "tuple[dict[str, Dataset], str | None]":
    """The splits train and test, and the official name of test, or None if there is no test."""
    found = source.read()
    if "train" not in found:
        raise UserError(f"data.source: {source.name} has no split 'train', only {list(found)}")
    test_split = next((name for name in TEST_SPLITS if name in found), None)
    names = {"train": "train"} | ({"test": test_split} if test_split else {})
    for name in names.values():
        if len(found[name]) == 0:
            raise UserError(f"data.source: the split {name!r} of {source.name} is empty")
    return {split: found[name] for split, name in names.items()}, test_split


def _hold_out(part: Path, labels: Labels) -> dict[str, Labels]:
    """Split the decoded train images into train and test, stratified, the same for any seed."""
    size = max(1, round(len(labels) * HELD_OUT))
    if size == len(labels):
        raise UserError("data.source: the split 'train' has only 1 image, too few to train on")
    train, test = stratified(torch.from_numpy(labels), size, seed=0)
    images = np.load(part / "train-images.npy")
    np.save(part / "train-images.npy", images[train.numpy()])
    np.save(part / "test-images.npy", images[test.numpy()])
    return {"train": labels[train.numpy()], "test": labels[test.numpy()]}


def _fingerprint(part: Path) -> str:
    digest = hashlib.sha256()
    for name in ("train-images", "train-labels", "test-images", "test-labels"):
        array = np.load(part / f"{name}.npy", mmap_mode="r")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
