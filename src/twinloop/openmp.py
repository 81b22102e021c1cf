"""How long the threads of torch spin while they wait for each other."""

import os
import statistics
import time
from pathlib import Path

SPINS = 1000
"""Checks of a waiting thread before it sleeps, about 10 microseconds."""
LOADAVG = Path("/proc/loadavg")
LOOKS, PAUSE = 5, 0.01
"""How often, and at what interval in seconds, a command looks at what else runs."""


def limit_spinning() -> None:
    """Let waiting threads sleep early where the machine is busy; to be called before torch loads.

    By default a thread of GNU OpenMP, which torch has on Linux, checks 300,000 times before it
    sleeps. Alone on the machine this is the fastest. If another process has the core of the thread
    that it waits for, it loses a time slice at many operations of a step. What the user has set
    stays (libgomp's manual, GOMP_SPINCOUNT). The results are the same either way.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    if not chosen and others_run():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def others_run() -> bool:
    """Whether other processes are running now, in most of a few looks (proc(5), loadavg)."""
    if not LOADAVG.exists():
        return False
    running = []
    for _ in range(LOOKS):
        running.append(int(LOADAVG.read_text().split()[3].partition("/")[0]))
        time.sleep(PAUSE)
    return statistics.median(running) > 1  # this process
