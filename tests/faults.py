"""Real commands that are hurt while they run, and what must be true of them afterwards.

`python -m tests.faults --count 128` hurts so many runs of `python -m twinloop fit`: each gets
signals at a moment that its number and the seed decide, what it left is looked at, it goes on by
`--ckpt_path last`, and must end with the bits of a run that nobody hurt. What was found is kept in
`faults.json`; a run of the same commit and seed goes on with it.

A command is forked from a process that has imported much and done nothing, and then run as
`python -m` runs it: that saves each run the seconds that the imports take.
"""

import argparse
import errno
import itertools
import json
import multiprocessing
import os
import platform
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from twinloop.comparison.record import compare_tensors, flat
from twinloop.runs.checkpoint import read_checkpoint
from twinloop.runs.results import PACKAGES

EXPERIMENT = "denoising-autoencoder"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
LOOPS = ("lightning", "homemade")
EPOCHS, BATCHES, VALIDATION_BATCHES = 3, 6, 4
PICTURES = 1797
STOP_SECONDS = 5.0
"""How long a run may take to save and stop."""
PAUSE = 2.0
"""Seconds that each call of a phase takes after the signal: a command that waits is found out."""
PATIENCE = 120.0
"""Seconds after which a command that does not end is killed."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["twinloop.cli", "datasets", "sklearn.datasets", "sklearn.linear_model", "matplotlib.figure"]
)

Hit = Callable[[], None]


def _at_pictures(hit: Hit) -> None:
    from twinloop.data import decode

    original = decode.decode_image

    def decode_image(*args: Any) -> Any:
        hit()
        return original(*args)

    decode.decode_image = decode_image  # type: ignore[assignment]


def _at_batches(hit: Hit, *, training: bool) -> None:
    from twinloop.data.batches import Batch, Batches

    original = Batches.__iter__

    def gather(self: Batches) -> Iterator[Batch]:
        for batch in original(self):
            if self.shuffle == training:
                hit()
            yield batch

    Batches.__iter__ = gather  # type: ignore[method-assign]


def _inside_checkpoints(hit: Hit) -> None:
    import torch

    original = torch.save

    def save(content: Any, file: Any) -> None:
        whole = BytesIO()
        original(content, whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        hit()
        file.write(whole.getvalue()[half:])

    torch.save = save  # type: ignore[assignment]


def _before_renaming_checkpoints(hit: Hit) -> None:
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if self.suffixes == [".ckpt", ".part"]:
            hit()
        return original(self, target)

    Path.replace = replace  # type: ignore[assignment,method-assign]


def _inside_results(hit: Hit) -> None:
    original = Path.write_text

    def write_text(self: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if self.name != "results.json.part":
            return original(self, text, *args, **kwargs)
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            hit()
            return file.write(text[len(text) // 2 :])

    Path.write_text = write_text  # type: ignore[assignment,method-assign]


PHASES: dict[str, tuple[Callable[[Hit], None], range]] = {
    "decoding": (_at_pictures, range(1, PICTURES + 1)),
    "first batch": (lambda hit: _at_batches(hit, training=True), range(1, 2)),
    "training": (lambda hit: _at_batches(hit, training=True), range(2, EPOCHS * BATCHES + 1)),
    "validation": (
        lambda hit: _at_batches(hit, training=False),
        range(1, EPOCHS * VALIDATION_BATCHES + 1),
    ),
    "writing a checkpoint": (_inside_checkpoints, range(1, EPOCHS + 1)),
    "renaming a checkpoint": (_before_renaming_checkpoints, range(1, EPOCHS + 1)),
    "writing results.json": (_inside_results, range(1, 2)),
}
"""How a command is made to notice each call of a phase, and which of its calls there are."""
ANY_TIME = "any time"
"""A phase whose calls are milliseconds after the start, counted from outside."""
CALLS = {name: calls for name, (_, calls) in PHASES.items()} | {ANY_TIME: range(100, 2000)}
SIGNALS = {
    "SIGTERM": (signal.SIGTERM,),
    "Ctrl-C": (signal.SIGINT,),
    "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
    "SIGKILL": (signal.SIGKILL,),
}


@dataclass(frozen=True)
class Moment:
    """The `call`-th call of a phase, at which a command sends `signals` to itself.

    Without signals the disk is full from that call on.
    """

    phase: str
    call: int
    signals: tuple[signal.Signals, ...] = ()

    def arm(self, sent: Path) -> None:
        """Wait for the moment in this process, and keep in the file `sent` when it was."""
        calls = itertools.count(1)

        def hit() -> None:
            call = next(calls)
            if call >= self.call and not self.signals:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if call == self.call:
                sent.write_text(repr(time.time()))
                for number in self.signals:
                    os.kill(os.getpid(), number)
            elif call > self.call:
                time.sleep(PAUSE)

        PHASES[self.phase][0](hit)


def twinloop(args: list[str], output: Path, moment: Moment | None) -> None:
    """Become `python -m twinloop ARGS` that prints to the file `output`."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if moment and moment.phase in PHASES:
        moment.arm(output.with_suffix(".sent"))
    sys.argv[1:] = args
    runpy.run_module("twinloop", run_name="__main__", alter_sys=True)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status, what it printed, its seconds from the signal."""

    status: int
    printed: str
    seconds: float


def run(args: list[str], output: Path, moment: Moment | None = None) -> Ended:
    """Run `python -m twinloop ARGS`, print to the file `output`, and hurt it at `moment`."""
    process = PROCESSES.Process(target=twinloop, args=(args, output, moment))
    started = time.time()
    process.start()
    sent = output.with_suffix(".sent")
    if moment and moment.phase == ANY_TIME:
        time.sleep(moment.call / 1000)
        sent.write_text(repr(time.time()))
        for number in moment.signals:
            os.kill(process.pid or 0, number)
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    seconds = time.time() - (float(sent.read_text()) if sent.exists() else started)
    return Ended(process.exitcode or 0, output.read_text(), seconds)


def fit(loop: str, root: Path, cache: Path, *options: str) -> list[str]:
    """The arguments of a small run on digits, whose noise draws random numbers everywhere."""
    return [
        *("fit", "--config", str(EXPERIMENTS / f"{EXPERIMENT}.yaml"), "--loop", loop),
        *("--data.source", "digits", "--data.cache_dir", str(cache), "--data.batch_size", "32"),
        *("--trainer.default_root_dir", str(root), "--trainer.max_epochs", str(EPOCHS)),
        *("--trainer.limit_train_batches", str(BATCHES), "--model.network.widths", "[4,8]"),
        *options,
    ]


def newest(root: Path) -> Path:
    """The newest run folder below `root`."""
    runs = (root / "lightning_logs" / EXPERIMENT).glob("version_*")
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


def _read_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


READERS: dict[str, Callable[[Path], Any]] = {
    ".ckpt": read_checkpoint,
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text())["trainer"],
    ".png": _read_picture,
    ".npy": np.load,
}


def differences(run: Path, other: Path) -> list[str]:
    """Where what two runs have left differs: any bit of the last checkpoint, any result."""
    one, two = (flat(read_checkpoint(r / "checkpoints" / "last.ckpt")) for r in (run, other))
    for tensors in (one, two):
        for name in [name for name in tensors if name.endswith(("/seconds", "/best.ckpt"))]:
            del tensors[name]  # times and paths are a run's own
    found = compare_tensors("last.ckpt", one, two)
    results = [json.loads((r / "results.json").read_text()) for r in (run, other)]
    for result in results:
        for row in result["history"]:
            del row["seconds"]
    names = ("dataset", "parameters", "epochs", "val", "test", "history")
    return found + [f"results.json: {n}" for n in names if results[0][n] != results[1][n]]


def hurt(loop: str, moment: Moment, root: Path, uninterrupted: Path, cache: Path) -> Ended:
    """Hurt a run of `loop` below `root` at `moment`, look at what it left, and go on with it.

    Args:
        loop: Whose run.
        moment: When, and by which signals.
        root: A folder of the run's own.
        uninterrupted: A run folder that the run must be equal to in the end.
        cache: Decoded digits; where decoding itself is hurt the run has a cache of its own.

    Raises:
        AssertionError: something is lost, or not as it was said.
    """
    if moment.phase == "decoding":
        cache = root / "cache"
    root.mkdir()
    ended = run(fit(loop, root, cache), root / "hurt", moment)
    last = list(root.rglob("last.ckpt"))
    broken = broken_files(root)
    assert not broken, broken
    if moment.signals == (signal.SIGKILL,):
        assert ended.status == -signal.SIGKILL or moment.phase == ANY_TIME
    elif ended.status or moment.phase != ANY_TIME:
        assert ended.status == 128 + moment.signals[0], f"{ended.status}: {ended.printed}"
        assert ended.seconds < STOP_SECONDS, f"{ended.seconds:.1f} s to stop"
        line = ended.printed.splitlines()[-1]
        assert line.startswith(f"stopped by {moment.signals[0].name}"), ended.printed
        assert "go on with --ckpt_path last" in line
        assert "Traceback" not in ended.printed, ended.printed
        assert not [path for path in root.rglob("*") if ".part" in path.name], "a part is left"
    if ended.status:
        again = run(fit(loop, root, cache, *(["--ckpt_path", "last"] if last else [])), root / "on")
        assert again.status == 0, again.printed
    found = differences(newest(root), uninterrupted)
    assert not found, found
    return ended


def commit() -> str:
    """The commit of the code that is tested, '+' where it was changed since."""
    git = ["git", "-C", str(EXPERIMENTS)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../src"], check=False)
    return head.stdout.strip() + "+" * changed.returncode


def campaign(path: Path, seed: int, count: int, seconds: float) -> bool:
    """Hurt runs until there are `count`, or no time is left, and keep what was found in `path`."""
    started = time.monotonic()
    about = {
        "commit": commit(),
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if {name: found.get(name) for name in about} != about:
        found = about | {"tried": 0, "passed": 0, "cells": {}, "failed": {}}
    cells = list(itertools.product(CALLS, SIGNALS, LOOPS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for loop in LOOPS:
            whole = run(fit(loop, folder / loop, folder / "cache"), folder / "whole")
            assert whole.status == 0, whole.printed
        while found["tried"] < count and time.monotonic() - started < seconds:
            number = found["tried"]
            phase, signals, loop = cells[number % len(cells)]
            call = random.Random(f"{seed} {number}").choice(CALLS[phase])
            moment = Moment(phase, call, SIGNALS[signals])
            cell = found["cells"].setdefault(
                f"{phase}, {signals}, {loop}", {"tried": 0, "passed": 0, "seconds to stop": 0.0}
            )
            found["tried"] += 1
            cell["tried"] += 1
            root = folder / str(number)
            try:
                ended = hurt(loop, moment, root, newest(folder / loop), folder / "cache")
                found["passed"] += 1
                cell["passed"] += 1
                cell["seconds to stop"] = max(cell["seconds to stop"], round(ended.seconds, 2))
            except AssertionError as error:
                found["failed"][str(number)] = f"{loop}, {moment}: {error}"
                print(found["failed"][str(number)], flush=True)
            shutil.rmtree(root)
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['passed']} of {found['tried']} passed; see {path}")
    return bool(found["passed"] == found["tried"])


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=128, help="how many runs to hurt")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".json"))
    wanted = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return 0 if campaign(wanted.results, wanted.seed, wanted.count, wanted.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
