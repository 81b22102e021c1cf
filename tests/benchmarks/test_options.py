"""What an option gains is measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.work import Work

ROOT = Path(__file__).parents[2]
SHORT = """
import json
import torch
from benchmarks import options

options.resolved = lambda *_: "bf16-mixed"
options.STEPS, options.EXPERIMENTS = 5, ("lesson-classifier",)
options.in_turn = lambda ways, _: {way: [ways[way]()] for way in ways}  # without a warm-up
print(json.dumps(options.measure("digits", torch.device("cpu"), rounds=1)))
"""
"""In a process of its own: torch keeps threads for compiling until a process ends."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_step_is_timed_with_and_without_each_option() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT], cwd=ROOT, check=True, capture_output=True)
    rows = json.loads(done.stdout)
    assert [(row["what"], row["against"]) for row in rows] == [
        ("--compile default", "no option"),
        ("contiguous weights", "no option"),
        ("one more thread", "no option"),
        ("--trainer.precision bf16-mixed", "no option"),
        ("--trainer.precision bf16-true", "no option"),
        ("AdamW with fused true", "no option"),
        ("two steps of half as many images", "no option"),
        ("freed memory kept", "freed memory given back"),
    ]
    for row in rows:
        assert (row["experiment"], row["n"]) == ("lesson-classifier", 1)
        assert 0.01 < row["ratio"]["median"] < 100


@pytest.mark.parametrize("experiment", ["lesson-classifier", "classifier"])
def test_an_option_of_the_optimiser_is_of_the_one_for_the_rest(experiment: str) -> None:
    task = Work(experiment, optimizer={"fused": True}).task()
    optimizer, _ = task.optimizer_and_scheduler(steps=10, epochs=1)
    assert any(group["fused"] for group in optimizer.param_groups)
