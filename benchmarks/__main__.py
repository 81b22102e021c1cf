"""`python -m benchmarks [PART ...]`: measure, and keep what came out. See benchmarks/README.md."""

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

PARTS = (
    "batches",
    "loops",
    "contestants",
    "start",
    "growth",
    "profile_steps",
    "options",
    "convolutions",
)
HOURS = "quality"
"""A part that runs only where it is named."""


def main() -> None:
    """Measure the parts that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, HOURS, []], help=f"all but {HOURS}, if none is named"
    )
    parser.add_argument("--data", default="auto", help="a folder, a Hub id, or digits")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if len(parts) > 1:
        given = [f"--{name}={value}" for name, value in vars(options).items() if name != "parts"]
        for part in parts:
            subprocess.run([sys.executable, "-m", "benchmarks", part, *given], check=True)
        return

    # Before torch is imported, for it and for the processes that are started from here.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from benchmarks import report
    from twinloop.cli.memory import keep_freed_memory
    from twinloop.data.datamodule import ImageDataModule

    keep_freed_memory()  # as our command line does; else the ways differ by what malloc makes of it

    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    data = ImageDataModule(options.data)
    part = parts[0]
    print(f"{part} on {data.spec.name}, {device}, {options.rounds} rounds", flush=True)
    start = time.perf_counter()
    rows = import_module(f"benchmarks.{part}").measure(data.source, device, options.rounds)
    about = report.circumstances(device, options.threads, data.spec)
    about["seconds"] = round(time.perf_counter() - start)
    whole = data.spec.name == "fashion_mnist"
    report.keep(part, about, rows, report.HERE if whole else Path("lightning_logs/benchmarks"))


if __name__ == "__main__":
    main()
