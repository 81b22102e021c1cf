"""Two processes, started by torchrun as a person would, end with the same bits in either loop."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from twinloop.comparison.parity import LOOPS, Loop
from twinloop.comparison.record import compare_tensors, flat

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def fit(loop: Loop, folder: Path, *options: str) -> dict[str, Any]:
    """Train the classifier, dropout and batch norm included, by two processes over gloo."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", "-m", "twinloop", "fit", "--loop", loop),
            *("--config", str(EXPERIMENTS / "classifier.yaml"), "--data.source", "digits"),
            *("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "2"),
            *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
            *("--trainer.accelerator", "cpu", "--model.network.widths", "[8,16]", *options),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = list((folder / "lightning_logs" / "classifier").iterdir())
    assert [run.name for run in runs] == ["version_0-digits"]
    assert (runs[0] / "results.json").is_file()
    checkpoint: dict[str, Any] = torch.load(runs[0] / "checkpoints" / "last.ckpt")
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        # 1,372 pictures are 686 for each of the two; a batch of 99 leaves a short one.
        ("--data.batch_size", "99"),
        # 1,371 cannot be divided evenly: one picture comes twice.
        ("--data.val_size", "126", "--data.batch_size", "100"),
        ("--data.batch_size", "99", "--trainer.accumulate_grad_batches", "3"),
    ],
    ids=["even", "uneven", "accumulated"],
)
def test_two_processes_end_with_the_same_bits(options: tuple[str, ...], tmp_path: Path) -> None:
    one, other = (fit(loop, tmp_path / loop, *options) for loop in LOOPS)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert compare_tensors(part, flat(one[part]), flat(other[part])) == []
    rows, others = (found["callbacks"]["History"]["rows"] for found in (one, other))
    for row in (*rows, *others):
        del row["seconds"]
    assert rows == others
    assert one["loops"]["fit_loop"]["state_dict"] == other["loops"]["fit_loop"]["state_dict"]
