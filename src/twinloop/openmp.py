"""How long the threads of torch spin while they wait for each other."""

import os

SPINS = 1000
"""Checks of a waiting thread before it gives up its core, about 10 microseconds."""


def limit_spinning() -> None:
    """Let waiting threads sleep early; to be called before torch is imported.

    By default a thread of GNU OpenMP, which torch has on Linux, checks 300,000 times before it
    sleeps. If another process has the core of the thread that it waits for, these milliseconds are
    lost at every operation of a step. What the user has set stays (libgomp's manual,
    GOMP_SPINCOUNT).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
