"""Decode whole splits, by as many processes as there are cores."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from twinloop.data.decode import Decoded, Rows, Task, decode_rows
from twinloop.data.journal import Journal
from twinloop.errors import UserError

QUEUE = 2
"""Tasks per process that are submitted at a time, so that none waits for its next one."""
UNGUARDED = (
    "images are decoded in processes that import your script again; put its work under "
    '`if __name__ == "__main__":`'
)


def decode_all(tasks: Iterable[Rows], most: int, journal: Journal, images: int) -> Decoded:
    """Run `decode_rows` on tasks of up to `most` rows, those of `images` that `journal` has not.

    Each task is noted in the journal when it is done. In a terminal there is a progress bar.

    Returns:
        What became of all images, those of the journal included.

    Raises:
        ColourError: see `decode_rows`.
        UserError: see `decode_rows`; also a process that ended while it decoded.
    """
    from twinloop.progress import Bars

    found = Decoded()
    found.add(journal.done)
    if found.rows:
        print(f"{found.rows:,} of {images:,} images are decoded already", flush=True)
    with Bars() as bars, closing(_decoded(tasks, most, images - found.rows)) as parts:
        bars.move("images", f"decoding {images:,}", found.rows, images)
        for task, part in parts:
            journal.note(task, part)
            found.add(part)
            bars.move("images", f"decoding {images:,}", found.rows, images)
    return found


def _decoded(tasks: Iterable[Rows], most: int, images: int) -> Generator[tuple[Task, Decoded]]:
    """Give the result of each task when it is done.

    As many images as a task may have are decoded here, before a process would start; more by as
    many processes as there are cores. These end at once where this one is stopped or killed.
    """
    processes = min(os.cpu_count() or 1, -(-images // most))
    # A process that is spawned imports the script again, which it cannot where that was piped in.
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not Path(script).exists():
        processes = 1
    if processes <= 1:
        yield from ((task.task, decode_rows(task)) for task in tasks)
        return
    # fork would copy the locks of torch's threads; spawned processes import no torch
    context = _Spawn()
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        try:
            yield from _submitted(pool, iter(tasks), QUEUE * processes)
        except BrokenProcessPool as error:
            raise UserError(
                f"a decoding process ended early: {UNGUARDED}; with such a guard, the process was "
                "killed, perhaps because memory ran out"
            ) from error
        except BaseException:
            context.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _submitted(
    pool: ProcessPoolExecutor, tasks: Iterator[Rows], most: int
) -> Iterator[tuple[Task, Decoded]]:
    """Keep up to `most` tasks submitted, for each holds the bytes of its images."""
    pending: dict[Future[Decoded], Task] = {}
    while True:
        for task in islice(tasks, most - len(pending)):
            pending[_submit(pool, task)] = task.task
        if not pending:
            return
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            yield pending.pop(future), future.result()


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


def _submit(pool: ProcessPoolExecutor, task: Rows) -> Future[Decoded]:
    """Submit a task; a process that this starts never sees Ctrl-C, which is for its parent."""
    if sys.platform == "win32":  # which has no mask of signals
        return pool.submit(decode_rows, task)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(decode_rows, task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have this process end when the one that has started it is no more, killed for example."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
