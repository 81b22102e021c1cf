"""What compiling gains is measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = """
import json
import torch
from benchmarks import compiled

compiled.STEPS, compiled.EXPERIMENTS = 5, ("lesson-classifier",)
print(json.dumps(compiled.measure("digits", torch.device("cpu"), rounds=1)))
"""
"""In a process of its own: torch keeps threads for compiling until a process ends."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_timed_beside_a_plain_one() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT], cwd=ROOT, check=True, capture_output=True)
    (row,) = json.loads(done.stdout)
    assert (row["what"], row["against"]) == ("Learner, compiled", "Learner")
    assert (row["experiment"], row["n"]) == ("lesson-classifier", 1)
    assert 0.1 < row["ratio"]["median"] < 10
