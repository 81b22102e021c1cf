"""Two processes, started by torchrun as a user would, end with the same bits in either loop."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import _suggested_max_num_threads

from twinloop.cli.parity import run
from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.matrix import trainer
from twinloop.comparison.parity import BASE, LOOPS, Loop, settings_of
from twinloop.data.datamodule import ImageDataModule
from twinloop.runs.record import flat

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


BREAKS = """
import os
from torch import nn


class Breaks(nn.Module):
    def __init__(self, image_shape, classes, widths):
        super().__init__()
        self.linear, self.batches = nn.Linear(64, classes), 0

    def forward(self, x):
        self.batches += self.training
        x = self.linear(x.flatten(1))
        second = os.environ["LOCAL_RANK"] == "1"
        return (x - 1e6).log() if second and self.batches > 8 else x
"""


def start(
    loop: Loop, folder: Path, *options: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Train the classifier, batch norm included, by two processes over gloo."""
    paths = [str(path)] * bool(path) + [os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", "-m", "twinloop", "fit", "--loop", loop),
            *("--config", str(EXPERIMENTS / "classifier.yaml"), "--data.source", "digits"),
            *("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "2"),
            *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
            *("--trainer.accelerator", "cpu", "--model.network.widths", "[8,16]", *options),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def fit(loop: Loop, folder: Path, *options: str) -> dict[str, Any]:
    """Train, and read the checkpoint."""
    done = start(loop, folder, "--model.network.dropout", "0.2", *options)
    assert done.returncode == 0, done.stderr
    runs = list((folder / "lightning_logs" / "classifier").iterdir())
    assert [run.name for run in runs] == ["version_0-digits"]
    assert (runs[0] / "results.json").is_file()
    checkpoint: dict[str, Any] = torch.load(runs[0] / "checkpoints" / "last.ckpt")
    return checkpoint


@pytest.mark.slow
def test_ddp_in_one_process_takes_the_same_threads_in_either_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over two threads are rounded otherwise than over one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    settings = settings_of(BASE) | trainer(strategy="ddp", fast_dev_run=1)
    threads = {}
    for loop in LOOPS:
        torch.set_num_threads(3)
        assert run(settings, loop, tmp_path).status == 0
        threads[loop] = torch.get_num_threads()
    torch.set_num_threads(before)
    assert threads["homemade"] == threads["lightning"] == _suggested_max_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        # 1,371 cannot be divided evenly: one image comes twice.
        ("--data.val_size", "126", "--data.batch_size", "100"),
        # 1,372 images are 686 for each of the two; a batch of 99 leaves a short one.
        ("--data.batch_size", "99", "--trainer.accumulate_grad_batches", "3"),
    ],
    ids=["uneven", "accumulated"],
)
def test_two_processes_end_with_the_same_bits(options: tuple[str, ...], tmp_path: Path) -> None:
    one, other = (fit(loop, tmp_path / loop, *options) for loop in LOOPS)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert compare_tensors(part, flat(one[part]), flat(other[part])) == []
    rows, others = (found["callbacks"]["KeepHistory"]["rows"] for found in (one, other))
    for row in (*rows, *others):
        del row["seconds"]
    assert rows == others
    assert one["loops"]["fit_loop"]["state_dict"] == other["loops"]["fit_loop"]["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loss_that_is_not_finite_in_one_process_ends_both(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS)
    options = ["--data.batch_size", "99", "--model.schedule", "null"]
    options += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]
    done = start(loop, tmp_path, *options, "--model.network", "breaks.Breaks", path=tmp_path)
    assert done.returncode == 1  # torchrun's own
    assert "timed out" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    # An epoch has 7 batches of each process; every second of the shuffled rows is the second's.
    data = ImageDataModule("digits", batch_size=99)
    loader = data.train_batches()
    loader.rank, loader.processes = 1, 2
    loader.set_epoch(1)
    rows = ", ".join(map(str, loader.rows_of(1)[:8].tolist()))
    assert len(lines) == 1
    assert lines[0].startswith(
        f"error: the loss is nan in epoch 2, batch 2 of train (step 9); rows {rows} and 91 more of "
        "the train split; first not finite: the output of network (Breaks); checkpoints"
    )
    folder = tmp_path / "lightning_logs" / "classifier" / "version_0-digits" / "checkpoints"
    assert torch.load(folder / "last.ckpt")["global_step"] == 7
