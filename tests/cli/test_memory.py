"""Freed memory stays with the process, where there is the GNU C library."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from twinloop.cli.memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
SIZE = 64 * 2**20  # bytes
for _ in range(20):  # until the pieces that are left over between two add up to one
    torch.ones(SIZE // 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(SIZE // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="there is no mallopt to ask",
)
def test_a_tensor_that_comes_again_takes_the_pages_that_it_had() -> None:
    def faults(memory: str) -> int:
        command = [sys.executable, "-c", FAULTS, memory]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    # 64 MiB are 16,384 pages of 4 KiB; where the system has larger ones, 32.
    assert faults("kept") < 10
    assert faults("given back") >= 10 * 32
