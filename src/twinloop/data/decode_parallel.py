"""Decode the images of a data set into array files, in as many processes as there are cores."""

import itertools
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twinloop.data.decode import (
    GREY_MODES,
    Encoded,
    decode_rows,
    end_with_parent,
    image_error,
    open_image,
)
from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Task = tuple[Path, int, list[Encoded | None], bool]
"""The arguments of `decode_rows`."""

ROWS_PER_TASK = 2_000
UNGUARDED = (
    "images are decoded in processes that import your script again; put its work under "
    '`if __name__ == "__main__":`'
)


def check_main_guard() -> None:
    """Refuse to decode in a spawned process that is still importing its parent's script.

    It would wait for the lock that its parent holds while the parent waits for it.

    Raises:
        UserError: the script has no `__main__` guard.
    """
    importing = sys.modules.get("__mp_main__")
    if importing is not None and importing is not sys.modules["__main__"]:
        raise UserError(UNGUARDED)


def decode_splits(
    folder: Path, splits: "dict[str, Dataset]", column: str, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Decode every split into `<split>-images.npy`; return channels, height and width.

    The first image of train decides whether images are grey, and without `image_size` their size.

    Raises:
        UserError: see `decode_rows`; also a process that ended early.
    """
    from datasets import Image
    from rich.progress import Progress

    encoded = {
        name: split.select_columns([column]).cast_column(column, Image(decode=False))
        for name, split in splits.items()
    }
    shape = _shape(_encoded(encoded["train"][0][column]), image_size)
    for name, split in encoded.items():
        _allocate(folder / f"{name}-images.npy", (len(split), *shape))
    total = sum(map(len, encoded.values()))
    tasks = (
        (folder / f"{name}-images.npy", start, images, image_size is not None)
        for name, split in encoded.items()
        for start, images in _images(split, column)
    )
    # Disabled, because even a transient bar prints an empty line where there is no terminal.
    bars = Progress(transient=True, disable=not sys.stdout.isatty())
    with bars as progress, closing(_run(tasks, total)) as finished:
        bar = progress.add_task(f"decoding {total:,} images", total=total)
        for rows in finished:
            progress.advance(bar, rows)
    return shape


def _shape(first: Encoded | None, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    try:
        if first is None:
            raise UserError("has no image")
        with open_image(first) as image:
            height, width = image_size or (image.height, image.width)
            return 1 if image.mode in GREY_MODES else 3, height, width
    except UserError as error:
        raise image_error("train", 0, first, error) from error


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Create a uint8 array file, with its disk space where the system can reserve it.

    On a full disk, writing to a mapped file without reserved space would kill the process.
    """
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _images(split: "Dataset", column: str) -> Iterator[tuple[int, list[Encoded | None]]]:
    """The encoded images of `split`, `ROWS_PER_TASK` at a time, with their first row."""
    for first in range(0, len(split), ROWS_PER_TASK):
        rows = split[first : first + ROWS_PER_TASK][column]
        yield first, [_encoded(row) for row in rows]


def _encoded(row: dict[str, Any] | None) -> Encoded | None:
    encoded: Encoded | None = (row["bytes"] or row["path"]) if row else None
    return encoded


def _run(tasks: Iterable[Task], images: int) -> Generator[int]:
    """Run `decode_rows` on the tasks, and yield the number of rows of each that has finished.

    Few images are decoded in this process. The others are terminated when this one is stopped,
    and end when it is killed.
    """
    processes = min(os.cpu_count() or 1, -(-images // ROWS_PER_TASK))
    if processes == 1:
        yield from itertools.starmap(decode_rows, tasks)
        return
    # Not by fork, which would copy the locks of torch's threads.
    context = _Spawn()
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        try:
            futures = [_submit(pool, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a decoding process ended early: {UNGUARDED}; with such a guard, the process was "
                "killed, perhaps because memory ran out"
            ) from error
        except BaseException:
            context.terminate()
            pool.shutdown(cancel_futures=True)
            raise


class _Spawn(SpawnContext):
    """A spawn context that records its processes, which a pool has only in a private attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.processes.append(SpawnProcess(*args, **kwargs))
        return self.processes[-1]

    def terminate(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.terminate()


def _submit(pool: ProcessPoolExecutor, task: Task) -> Future[int]:
    """Submit a task; a process started for it ignores Ctrl-C, which its parent handles."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(decode_rows, *task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
