"""Images a second, where the time of training goes, and peak memory: the same for either loop.

These are measurements, which differ from run to run: all have names that begin with `MEASURED`, by
which a comparison of runs leaves them out.
"""

import sys
from time import perf_counter
from typing import Any

import torch

MEASURED = "measured/"
PARTS = ("data", "forward", "backward", "rest")


class Throughput:
    """Adds up the seconds of training by parts of a step, without those of validation.

    Data is loading, transfer and augmentation; forward includes the loss; the rest is the
    optimiser's step and callbacks. It never waits for a GPU, for which the shares are those of the
    process that feeds it. With several processes the images are those of the first one.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.images = 0
        self._at = 0.0

    def skip(self) -> None:
        """Count from now on, as at the start of an epoch or after a validation."""
        self._at = perf_counter()

    def mark(self, part: str) -> None:
        """Add the time since the last mark to `part`."""
        now = perf_counter()
        self.seconds[part] += now - self._at
        self._at = now

    def start_batch(self, batch: Any) -> None:
        """Begin with a batch that is on its device."""
        self.mark("data")
        self.images += _rows(batch)

    def measured(self) -> dict[str, float]:
        """The measurements so far, by the names that they have in loggers; empty before any."""
        total = sum(self.seconds.values())
        if not self.images or not total:
            return {}
        shares = {f"{MEASURED}{part}_share": self.seconds[part] / total for part in PARTS}
        return {
            f"{MEASURED}images_per_second": self.images / total,
            **shares,
            f"{MEASURED}peak_memory_mib": peak_memory(),
        }


def peak_memory() -> float:
    """The peak memory in MiB, of the GPU or else of the process; NaN where it is not known."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _rows(batch: Any) -> int:
    """The rows of the first tensor in a batch; 0 if there is none."""
    while isinstance(batch, tuple | list | dict) and batch:
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return batch.shape[0] if isinstance(batch, torch.Tensor) and batch.ndim else 0
