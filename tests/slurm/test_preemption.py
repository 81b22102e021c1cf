"""A job that SLURM pre-empts and starts again ends with the bits of one that it left alone."""

import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slurm.cluster import Cluster, missing, slurm, until
from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.runs.record import flat

ROOT = Path(__file__).parents[2]
BATCHES, EPOCHS = 7, 3
"""1,372 images are 686 for each of two tasks, in batches of 99."""
STEP = BATCHES + 2
"""The first step, in the second epoch, after which a job may be pre-empted."""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


SLOW = f"""
import os, time
from pathlib import Path
from torch import nn


class Slow(nn.Module):
    def __init__(self, image_shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.last, self.batches = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, classes)), 0

    def forward(self, x):
        self.batches += self.training
        if self.batches > {STEP} and "PREEMPTED" in os.environ:
            if "SLURM_RESTART_COUNT" not in os.environ:
                Path("in-the-second-epoch").touch()
                time.sleep(2)
        return self.last(self.layers(x))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm() as found:
        yield found


def printed(folder: Path) -> str:
    return (folder / "job.txt").read_text()


def fit(loop: Loop, folder: Path) -> str:
    """A batch script that trains, and goes on from the last checkpoint where there is one."""
    run = folder / "run"
    last = run / "checkpoints" / "last.ckpt"
    command = [
        *("srun", sys.executable, "-m", "twinloop", "fit", "--loop", loop),
        *("--config", ROOT / "experiments" / "classifier.yaml", "--data.source", "digits"),
        *("--data.batch_size", "99", "--model.network", "slow.Slow"),
        *("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.01"),
        *("--trainer.default_root_dir", folder, "--run", run, "--trainer.max_epochs", EPOCHS),
        *("--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"),
    ]
    return f"""
        export OMP_NUM_THREADS=1 PYTHONPATH="$PWD:$PYTHONPATH"
        if [ -f {shlex.quote(str(last))} ]; then
            cp {shlex.quote(str(last))} gone-on-from.ckpt
            set -- --ckpt_path {shlex.quote(str(last))}
        fi
        {shlex.join(map(str, command))} "$@"
    """


def checkpoint(folder: Path, name: str = "run/checkpoints/last.ckpt") -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / name)
    return found


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert compare_tensors(part, flat(one[part]), flat(other[part])) == []


@pytest.fixture(scope="module")
def left_alone(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Loop], Path]:
    """What a job of each loop leaves that nobody pre-empts."""

    @functools.cache
    def train(loop: Loop) -> Path:
        folder = tmp_path_factory.mktemp(f"left-alone-{loop}")
        (folder / "slow.py").write_text(SLOW)
        ended = cluster.wait(cluster.submit(fit(loop, folder), folder))
        assert ended["JobState"] == "COMPLETED", printed(folder)
        assert ended["Restarts"] == "0"
        return folder

    return train


@pytest.mark.parametrize("loop", LOOPS)
def test_an_uninterrupted_job_runs_to_its_end(
    loop: Loop, left_alone: Callable[[Loop], Path]
) -> None:
    folder = left_alone(loop)
    assert checkpoint(folder)["global_step"] == EPOCHS * BATCHES
    assert (folder / "run" / "results.json").is_file()
    assert printed(folder).count(f"{loop} loop: ") == 1  # the first task's


def test_both_loops_end_with_the_same_bits(left_alone: Callable[[Loop], Path]) -> None:
    assert_same_bits(*(checkpoint(left_alone(loop)) for loop in LOOPS))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_job_that_was_preempted_in_an_epoch_ends_with_the_same_bits(
    loop: Loop, cluster: Cluster, left_alone: Callable[[Loop], Path], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    job = cluster.submit(fit(loop, tmp_path), tmp_path, PREEMPTED="1")
    until((tmp_path / "in-the-second-epoch").exists, "the second epoch", 240)
    cluster.requeue(job)
    ended = cluster.wait(job)
    assert ended["JobState"] == "COMPLETED", printed(tmp_path)
    assert ended["Restarts"] == "1"
    assert "Killed" not in printed(tmp_path)  # both tasks saved, and ended by themselves
    assert STEP <= checkpoint(tmp_path, "gone-on-from.ckpt")["global_step"] < 2 * BATCHES
    assert_same_bits(checkpoint(tmp_path), checkpoint(left_alone(loop)))
