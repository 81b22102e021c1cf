"""Memory that a step gives back is kept for the next one."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
LARGEST = 2**30


def keep_freed_memory() -> None:
    """Have the GNU C library keep what is freed, for the whole process; elsewhere do nothing.

    By itself it gives large pieces back to the system, which hands them out again page by page,
    each filled with zeros: every tensor of a step, at every step. Peak memory of our experiments
    changes by about a tenth, up or down; but it is the process's own until it ends (mallopt(3);
    PyTorch's tuning guide has other allocators for the same reason).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Older versions refuse more than 32 MiB. To set one threshold alone would end the other's
        # adapting to what a program does.
        if not mallopt(M_MMAP_THRESHOLD, LARGEST):
            mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, -1)
