"""`python -m benchmarks [PART ...]`: measure, and save the results. See benchmarks/README.md."""

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from twinloop.openmp import limit_spinning

PARTS = (
    "batches",
    "decoding",
    "loops",
    "contestants",
    "start",
    "growth",
    "profile_steps",
    "layers",
    "options",
    "convolutions",
)
HOURS = "quality"
"""A part that takes hours, and runs only if it is named."""


def main() -> None:
    """Measure the requested parts, each in its own process."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, HOURS, []], help=f"all but {HOURS}, if none is named"
    )
    parser.add_argument("--data", default="auto", help="a folder, a Hub id, or digits")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of which the median is reported"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, in each process")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if len(parts) > 1:
        given = [f"--{name}={value}" for name, value in vars(options).items() if name != "parts"]
        for part in parts:
            subprocess.run([sys.executable, "-m", "benchmarks", part, *given], check=True)
        return

    # Set before torch is imported, also for the processes started here.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    limit_spinning()
    import torch

    from benchmarks import report
    from twinloop.cli.memory import keep_freed_memory
    from twinloop.data.datamodule import ImageDataModule

    keep_freed_memory()  # as the command line does, or malloc would decide the differences

    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    data = ImageDataModule(options.data)
    part = parts[0]
    print(f"{part} on {data.spec.name}, {device}, {options.rounds} rounds", flush=True)
    try:
        about = report.circumstances(device, options.threads, data.spec)
    except PackageNotFoundError as error:
        parser.exit(2, f"error: {error.name} is missing; make bench PARTS={part} installs it\n")
    start = time.perf_counter()
    rows = import_module(f"benchmarks.{part}").measure(data.source, device, options.rounds)
    about["seconds"] = round(time.perf_counter() - start)
    whole = data.spec.name == "fashion_mnist"
    report.keep(part, about, rows, report.HERE if whole else Path("lightning_logs/benchmarks"))


if __name__ == "__main__":
    main()
