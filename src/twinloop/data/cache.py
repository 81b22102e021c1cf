"""Decoded data sets on disk: uint8 arrays that are made once and mapped from then on."""

import glob
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from twinloop.data.decode import (
    GREY_MODES,
    Encoded,
    decode_rows,
    end_with_parent,
    open_image,
)
from twinloop.data.source import Source
from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, escape_unprintable

if TYPE_CHECKING:
    from datasets import Dataset, Features

Labels = NDArray[np.int64]
Rows = tuple[Path, int, list[Encoded | None], bool]
"""The arguments of `decode_rows`."""

FORMAT = 1
"""Part of every cache key: raise it when the files below change their form."""
ROWS_PER_TASK = 2_000
TEST_SPLITS = ("test", "validation", "valid", "val")
HELD_OUT = 1 / 6
"""The share of train that becomes test where a data set has no official split of its own."""


UNGUARDED = 'a script of yours has to do its work under `if __name__ == "__main__":`'


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, mapped from disk or on a GPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DecodedData:
    """A whole data set. `test_split` names the official split, or says that it was held out."""

    spec: DataSpec
    train: Split
    test: Split
    test_split: str


def load(
    source: Source,
    cache: Path,
    *,
    image_size: tuple[int, int] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> DecodedData:
    """Map the decoded form of `source`, decoding it first where the cache does not have it.

    Any number of processes may call this at once: one decodes, the others wait. A process that
    is killed while it decodes leaves nothing under the final name.

    Raises:
        UserError: columns that cannot be told apart, an empty split, a label out of its range, a
            image that cannot be decoded, images of different sizes without `image_size`, a
            cache that cannot be written to, a process that ended while it decoded, or a script
            without its guard.
    """
    wanted = [FORMAT, source.key, image_size, image_column, label_column]
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
                    _build(folder, source, image_size, image_column, label_column)
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
    test_split = facts.pop("test_split")
    facts["image_shape"] = tuple(facts["image_shape"])
    facts["class_names"] = tuple(facts["class_names"])

    def split(name: str) -> Split:
        # "c" is copy on write: torch takes only arrays that may be written to
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
    """Decode into a temporary folder beside `folder`, then rename it: all of it or nothing."""
    for left_over in folder.parent.glob(f"{glob.escape(folder.name)}.part-*"):
        shutil.rmtree(left_over)  # its process was killed; the lock is ours
    splits = source.read()
    rows = {"train": _split(splits, ("train",), source.name)}
    test_split = next((name for name in TEST_SPLITS if name in splits), None)
    if test_split:
        rows["test"] = _split(splits, (test_split,), source.name)
    image_column, label_column = _columns(rows["train"].features, image_column, label_column)

    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    part.chmod(0o777 & ~_umask())
    try:
        labels = {name: _labels(split, name, label_column) for name, split in rows.items()}
        classes = _class_names(rows["train"], label_column, labels)
        for name, found in labels.items():
            _check_labels(found, len(classes), name, label_column)
        shape = _decode(part, rows, image_column, image_size)
        if not test_split:
            test_split = f"{HELD_OUT:.1%} of train, held out"
            labels = _hold_out(part, labels["train"])
        for name, found in labels.items():
            np.save(part / f"{name}-labels.npy", found)
        # Names are shown in terminals, tables and pages, a line each.
        shown = tuple(escape_unprintable(name) for name in classes)
        spec = DataSpec(escape_unprintable(source.name), _fingerprint(part), shape, shown)
        facts = spec._asdict() | {"test_split": test_split}
        (part / "spec.json").write_text(json.dumps(facts, indent=2))
        for file in part.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _split(splits: "dict[str, Dataset]", names: tuple[str, ...], source: str) -> "Dataset":
    for name in names:
        if name in splits:
            if len(splits[name]) == 0:
                raise UserError(f"data.source: the split {name!r} of {source} is empty")
            return splits[name]
    raise UserError(f"data.source: {source} has no split {names[0]!r}, only {list(splits)}")


def _columns(
    features: "Features", image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """Find the columns of images and of labels by the types of the features."""
    from datasets import ClassLabel, Image, Value

    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    numbers = [
        name
        for name, kind in features.items()
        if isinstance(kind, Value) and kind.dtype.startswith(("int", "uint"))
    ]
    if image_column is not None:
        images = _asked(image_column, images, "image", features)
    if label_column is not None:
        classes = _asked(label_column, classes + numbers, "label", features)
    return (
        _only(images, "image", list(features)),
        _only(classes or numbers, "label", list(features)),
    )


def _asked(column: str, fitting: list[str], what: str, features: "Features") -> list[str]:
    option = f"data.{what}_column"
    if column not in features:
        raise UserError(f"{option}: there is no column {column!r}, only {list(features)}")
    if column not in fitting:
        raise UserError(f"{option}: {column!r} is no {what} column but {features[column]}")
    return [column]


def _only(found: list[str], what: str, columns: list[str]) -> str:
    if not found:
        raise UserError(f"data.source: the data set has no {what} column among {columns}")
    if len(found) > 1:
        raise UserError(
            f"data.source: which of the columns {found} is it? pass --data.{what}_column"
        )
    return found[0]


def _labels(split: "Dataset", name: str, column: str) -> Labels:
    # Without the other columns, or each row's image would be decoded here for nothing.
    values = split.select_columns([column]).with_format("numpy")[:][column]
    missing = np.flatnonzero(~np.isfinite(values.astype(np.float64)))
    if len(missing):
        raise UserError(f"{name} row {missing[0]}: column {column!r} has no label")
    labels: Labels = values.astype(np.int64)
    return labels


def _class_names(train: "Dataset", column: str, labels: dict[str, Labels]) -> tuple[str, ...]:
    names = getattr(train.features[column], "names", None)
    if names is not None:
        return tuple(names)
    classes = int(labels["train"].max()) + 1
    if classes > len(train):
        raise UserError(
            f"train row {labels['train'].argmax()}: column {column!r} is {classes - 1}, which is "
            f"no class among {len(train)} images; pass --data.label_column"
        )
    return tuple(str(label) for label in range(classes))


def _check_labels(labels: Labels, classes: int, split: str, column: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{split} row {wrong[0]}: column {column!r} is {labels[wrong[0]]}, outside "
            f"0 to {classes - 1} ({len(wrong)} such rows); mend or remove them"
        )


def _images(split: "Dataset", column: str) -> Iterator[tuple[int, list[Encoded | None]]]:
    """The encoded images of `split`, `ROWS_PER_TASK` at a time, with their first row."""
    for first in range(0, len(split), ROWS_PER_TASK):
        rows = split[first : first + ROWS_PER_TASK][column]
        yield first, [_encoded(row) for row in rows]


def _encoded(row: dict[str, Any] | None) -> Encoded | None:
    if row is None:
        return None
    encoded: Encoded | None = row["bytes"] or row["path"]
    return encoded


def _decode(
    part: Path, splits: "dict[str, Dataset]", column: str, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Decode every split into `<split>-images.npy`; return channels, height and width."""
    from datasets import Image
    from rich.progress import Progress

    encoded = {
        name: split.select_columns([column]).cast_column(column, Image(decode=False))
        for name, split in splits.items()
    }
    first = _encoded(encoded["train"][0][column])
    try:
        if first is None:
            raise UserError("has no image")
        with open_image(first) as image:
            channels = 1 if image.mode in GREY_MODES else 3
            height, width = image_size or (image.height, image.width)
    except UserError as error:
        where = f"{first}: " if isinstance(first, str) else ""
        raise UserError(f"train row 0: {where}{error}") from error

    total = sum(map(len, encoded.values()))
    for name, split in encoded.items():
        path = part / f"{name}-images.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (len(split), channels, height, width))
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with path.open("r+b") as file:
                # Take the room now: on a full disk, writing to a mapped hole would be fatal.
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    tasks = (
        (part / f"{name}-images.npy", start, images, image_size is not None)
        for name, split in encoded.items()
        for start, images in _images(split, column)
    )
    # Where the output is no terminal, all that a bar leaves is an empty line.
    bars = Progress(transient=True, disable=not sys.stdout.isatty())
    with bars as progress, closing(_decoded(tasks, total)) as decoded:
        bar = progress.add_task(f"decoding {total:,} images", total=total)
        for rows in decoded:
            progress.advance(bar, rows)
    return channels, height, width


def _decoded(tasks: Iterable[Rows], images: int) -> Generator[int]:
    """Run `decode_rows` on the tasks, and give the number of rows of each that is done.

    A few images are decoded here, before a process would start; others by as many processes as
    there are cores. These end at once where this one is stopped or killed.
    """
    processes = min(os.cpu_count() or 1, -(-images // ROWS_PER_TASK))
    if processes == 1:
        yield from itertools.starmap(decode_rows, tasks)
        return
    # fork would copy the locks of torch's threads; spawned processes import only data.decode
    context = _Spawn()
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        try:
            futures = [_submit(pool, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that decodes has ended early: {UNGUARDED}; if it does, the process "
                "was killed, for want of memory perhaps"
            ) from error
        except BaseException:
            context.terminate()
            pool.shutdown(cancel_futures=True)
            raise


class _Spawn(SpawnContext):
    """Knows the processes that it has made: a pool does not tell which are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.made.append(SpawnProcess(*args, **kwargs))
        return self.made[-1]

    def terminate(self) -> None:
        for process in self.made:
            if process.is_alive():
                process.terminate()


def _submit(pool: ProcessPoolExecutor, task: Rows) -> Future[int]:
    """Submit a task; a process that this starts never sees Ctrl-C, which is for its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(decode_rows, *task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hold_out(part: Path, labels: Labels) -> dict[str, Labels]:
    """Split the decoded train images into train and test, stratified, the same for any seed."""
    from twinloop.data.split import stratified

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
