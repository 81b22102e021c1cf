"""Keep the memory that a training step frees for the next step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
LARGEST = 2**30


def keep_freed_memory() -> None:
    """Make the GNU C library keep freed memory, for the whole process; elsewhere do nothing.

    By default it returns large blocks to the system, which hands them out again page by page,
    filled with zeros: every tensor of a step, at every step. Peak memory of our experiments changes
    by about a tenth, up or down, but is not released before the process ends (mallopt(3); PyTorch's
    tuning guide recommends other allocators for the same reason).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Older versions refuse more than 32 MiB. Setting one threshold stops the dynamic adjustment
        # of the other.
        if not mallopt(M_MMAP_THRESHOLD, LARGEST):
            mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, -1)
