"""A long run needs no more memory than a short one, whichever loop it is."""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from twinloop.cli import main
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.runs import board

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EPOCHS = 200
BY_DESIGN = {
    "lightning": {"dict": 8, "Traced": 26, "Tensor": 17},
    "homemade": {"dict": 8, "Traced": 38, "Tensor": 17},
}
"""Objects more for every epoch of three batches: what `--record all` is there to keep."""


def census() -> tuple[Counter[str], int, int]:
    """Objects by type, bytes of memory, and open files."""
    gc.collect()
    objects = Counter(type(thing).__name__ for thing in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return objects, pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


def train(loop: str, folder: str) -> None:
    """Train, and print a census of three epochs as JSON."""
    counted: list[tuple[Counter[str], int, int]] = []
    log_epoch, epoch = board.log_epoch, 0

    def log_and_count(*args: Any) -> None:
        nonlocal epoch
        epoch += 1
        log_epoch(*args)
        if epoch in (EPOCHS // 10, EPOCHS // 2, EPOCHS):
            counted.append(census())

    setattr(board, "log_epoch", log_and_count)  # noqa: B010 - mypy knows its arguments
    command = ["fit", "--config", str(EXPERIMENTS / "mlp.yaml"), "--data.source", "digits"]
    command += ["--trainer.default_root_dir", folder, "--loop", loop, "--record", "all"]
    command += ["--trainer.max_epochs", str(EPOCHS), "--trainer.limit_train_batches", "3"]
    assert main([*command, "--trainer.log_every_n_steps", "1"]) == 0
    print(json.dumps(counted))


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_two_hundred_epochs_add_only_what_is_by_design(loop: Loop, tmp_path: Path) -> None:
    # In a process of its own: what others have freed would be there to be used again.
    command = [sys.executable, __file__, loop, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    early, middle, late = json.loads(done.stdout.splitlines()[-1])
    more = {name: (n - middle[0].get(name, 0)) / (EPOCHS // 2) for name, n in late[0].items()}
    # A few objects come and go with the garbage collector and with what is on its way to disk.
    assert {name: round(n) for name, n in more.items() if n > 0.2} == BY_DESIGN[loop]
    # What is freed stays with the process, which so has grown to its size in the first half.
    print(*(f"{count[1] / 2**20:.0f} MiB" for count in (early, middle, late)))
    assert late[1] - middle[1] < 32 * 2**20
    assert late[2] == early[2]


if __name__ == "__main__":
    train(*sys.argv[1:])
