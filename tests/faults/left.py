"""What a run has left: whether each file is whole, and where two runs differ."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from twinloop.comparison.differences import compare_tensors
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.record import flat


def newest(root: Path) -> Path:
    """The newest run folder below `root`."""
    runs = (root / "lightning_logs").glob("*/version_*")
    return max(runs, key=lambda path: int(path.name.split("_")[1].split("-")[0]))


def broken_files(root: Path) -> list[str]:
    """The files below `root` that are not whole, each with what is wrong with it."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if ".part" in str(path.relative_to(root)):
            continue  # no final name
        try:
            if path.suffix in READERS:
                READERS[path.suffix](path)
            elif ".tfevents." in path.name:
                list(EventFileLoader(str(path)).Load())
        except Exception as error:
            found.append(f"{path.relative_to(root)}: {error!r}")
    return found


def parts(root: Path) -> list[Path]:
    """What is left below `root` of files that were never finished."""
    return [path for path in root.rglob("*") if ".part" in path.name]


def missing(run: Path) -> list[str]:
    """What a run that has ended well should have left, and has not."""
    return [name for name in LEFT if not (run / name).is_file()]


def _read_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_json(path: Path) -> None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)


LEFT = ("config.yaml", "results.json", "curves.png", "checkpoints/last.ckpt")
READERS: dict[str, Callable[[Path], Any]] = {
    ".ckpt": read_checkpoint,
    ".json": _read_json,
    ".yaml": lambda path: yaml.safe_load(path.read_text())["trainer"],
    ".png": _read_image,
    ".npy": np.load,
}


def differences(run: Path, other: Path) -> list[str]:
    """Where what two runs have left differs: any bit of the last checkpoint, any result."""
    one, two = (flat(read_checkpoint(r / "checkpoints" / "last.ckpt")) for r in (run, other))
    for tensors in (one, two):
        for name in [name for name in tensors if re.search(r"/seconds$|/best\.ckpt$", name)]:
            del tensors[name]  # times and paths are a run's own
    found = compare_tensors("last.ckpt", one, two)
    results = [json.loads((r / "results.json").read_text()) for r in (run, other)]
    for result in results:
        for row in result["history"]:
            del row["seconds"]
    for name in ("dataset", "parameters", "epochs", "val", "test", "history"):
        mine, others = (result[name] for result in results)
        if mine != others:
            found.append(f"results.json: {name} is {mine}, and of the other run {others}")
    return found
