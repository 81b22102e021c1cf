"""A long run needs no more memory than a short one, whichever loop it is."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from twinloop.cli import main
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.runs import board

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EPOCHS = 200


def census() -> tuple[int, int, int]:
    """Objects, bytes of memory, and open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    return len(gc.get_objects()), pages * os.sysconf("SC_PAGE_SIZE"), files


def train(loop: str, folder: str) -> None:
    """Train, and print a census of three epochs as JSON."""
    counted: list[tuple[int, int, int]] = []
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
def test_two_hundred_epochs_add_only_their_record(loop: Loop, tmp_path: Path) -> None:
    # In a process of its own: what others have freed would be there to be used again.
    command = [sys.executable, __file__, loop, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    early, middle, late = json.loads(done.stdout.splitlines()[-1])
    # What `--record all` keeps of an epoch of three batches: metrics, weights and events.
    assert (late[0] - middle[0]) / (EPOCHS // 2) < 80
    # What is freed stays with the process, which so has grown to its size in the first half.
    assert late[1] - middle[1] < 32 * 2**20
    assert late[2] == early[2]


if __name__ == "__main__":
    train(*sys.argv[1:])
