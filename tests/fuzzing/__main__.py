"""Broken and hostile files through the real command line: it does what it should, or says why not.

Each input goes through a whole command: training by one of the two loops, with validation,
checkpoints, figures and results, or going on from a checkpoint, or `test`, `validate`, `predict`
and `compare`. A refusal is one line that names the file. Nothing leaves a traceback or a broken
file, takes longer than 10 s or more than 1 GB, runs a program, or writes elsewhere than into its
run. `make fuzz` draws thousands of inputs and keeps the counts.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

CACHES = tempfile.TemporaryDirectory()
# Read where they are imported.
os.environ |= {"TWINLOOP_CACHE": f"{CACHES.name}/cache", "HF_HOME": f"{CACHES.name}/hub"}
os.environ["HF_HUB_OFFLINE"] = "1"

from tests.fuzzing.fuzz import KINDS, fuzz  # noqa: E402
from tests.fuzzing.sandbox import Sandbox  # noqa: E402


def record(kinds: list[str], inputs: int, first: int, path: Path, keep: Path | None) -> int:
    """Fuzz `kinds`, and put what came out into the JSON file at `path`, beside other kinds."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"kinds": {}}
    packages = ("torch", "lightning", "jsonargparse", "datasets", "pillow", "hypothesis")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found |= {
        "seed": first,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }
    with tempfile.TemporaryDirectory() as folder:
        made = Sandbox(Path(folder))
        made.train()
        for kind in kinds:
            found["kinds"][kind] = fuzz(kind, inputs, made, first, keep=keep)
            found["kinds"][kind]["commit"] = head.stdout.strip()
            print(kind, found["kinds"][kind], flush=True)
            found["inputs"] = sum(one["inputs"] for one in found["kinds"].values())
            path.write_text(json.dumps(found, indent=2) + "\n")
    return any(found["kinds"][kind]["faults"] for kind in kinds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="a JSON file, added to")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that went wrong")
    asked = parser.parse_args()
    with CACHES:
        sys.exit(record(asked.kinds, asked.inputs, asked.seed, asked.output, asked.keep))
