"""The time from the start of a process to its first training step, or to its help."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.pairs import Target, in_turn, row

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FIRST_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from twinloop.cli import main
register_optimizer_step_post_hook(lambda *_: os._exit(0))
main(sys.argv[1:])
sys.exit("there was no step")
"""
"""A command that ends after its first training step."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Start-up times relative to importing torch and Lightning."""
    with TemporaryDirectory() as folder:
        ways = {
            name: partial(seconds_of_process, arguments)
            for name, arguments in commands(source, device, Path(folder)).items()
        }
        times = in_turn(ways, rounds)
    limit = Target(1.5)
    return [
        row(times, "first step, Lightning", "import torch, lightning", limit),
        row(times, "first step, Learner", "import torch, lightning", limit),
        row(times, "--help", "import LightningCLI", limit),
        row(times, "fit --help", "import LightningCLI", limit),
    ]


def commands(source: str, device: torch.device, folder: Path) -> dict[str, list[str]]:
    """The arguments of Python for each process; runs are written to `folder`."""
    fit = ["fit", "--config", str(EXPERIMENTS / "lesson-classifier.yaml")]
    fit += ["--data.source", source, "--trainer.default_root_dir", str(folder)]
    fit += ["--trainer.accelerator", {"cuda": "gpu"}.get(device.type, device.type)]
    return {
        "import torch, lightning": ["-c", "import torch, lightning"],
        "import LightningCLI": ["-c", "from lightning.pytorch.cli import LightningCLI"],
        "first step, Lightning": ["-c", FIRST_STEP, *fit],
        "first step, Learner": ["-c", FIRST_STEP, *fit, "--loop", "homemade"],
        "--help": ["-m", "twinloop", "--help"],
        "fit --help": ["-m", "twinloop", "fit", "--help"],
    }


def seconds_of_process(arguments: list[str]) -> float:
    """Seconds from the start of a process to its end.

    Raises:
        CalledProcessError: it failed.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start
