"""Decode whole splits, by as many processes as there are cores."""

import os
import signal
import sys
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from twinloop.data.decode import Decoded, Rows, decode_rows, end_with_parent
from twinloop.errors import UserError

ROWS_PER_TASK = 2_000
UNGUARDED = (
    "images are decoded in processes that import your script again; put its work under "
    '`if __name__ == "__main__":`'
)


def decode_all(tasks: Iterable[Rows], images: int) -> Decoded:
    """Run `decode_rows` on tasks of together so many images, with a progress bar.

    Raises:
        ColourError: see `decode_rows`.
        UserError: see `decode_rows`; also a process that ended while it decoded.
    """
    from twinloop.progress import Bars

    found, done = Decoded(), 0
    with Bars() as bars, closing(_decoded(tasks, images)) as parts:
        bars.move("images", f"decoding {images:,}", done, images)
        for part in parts:
            found.add(part)
            done += part.rows
            bars.move("images", f"decoding {images:,}", done, images)
    return found


def _decoded(tasks: Iterable[Rows], images: int) -> Generator[Decoded]:
    """Give the result of each task when it is done.

    A few images are decoded here, before a process would start; others by as many processes as
    there are cores. These end at once where this one is stopped or killed.
    """
    processes = min(os.cpu_count() or 1, -(-images // ROWS_PER_TASK))
    # A process that is spawned imports the script again, which it cannot where that was piped in.
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not Path(script).exists():
        processes = 1
    if processes == 1:
        yield from map(decode_rows, tasks)
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
                f"a decoding process ended early: {UNGUARDED}; with such a guard, the process was "
                "killed, perhaps because memory ran out"
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


def _submit(pool: ProcessPoolExecutor, task: Rows) -> Future[Decoded]:
    """Submit a task; a process that this starts never sees Ctrl-C, which is for its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(decode_rows, task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
