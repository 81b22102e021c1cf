"""The lock of a run's folder: whether a process is training in it."""

from pathlib import Path

from filelock import FileLock, Timeout

from twinloop.errors import UserError

LISTED = 0.2
"""Seconds that a new run waits for the lock, which `is_locked` holds for an instant."""


def lock_run(run: Path, *, wait: bool = False) -> FileLock:
    """Lock the folder `run` for this process: two would overwrite each other's checkpoints.

    Raises:
        UserError: another process has the lock, and this one does not `wait`.
    """
    lock = FileLock(run / "run.lock")
    try:
        lock.acquire(timeout=-1 if wait else LISTED)
    except Timeout as error:
        raise UserError(
            f"another process is training in {run}; wait until it has ended, or stop it first"
        ) from error
    return lock


def is_locked(run: Path) -> bool:
    """Whether a living process trains in `run`: the lock of one that was killed is free."""
    path = run / "run.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
