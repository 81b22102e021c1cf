"""How the cost grows with the data set, the batch, the network, and the number of processes.

The time of a step is measured in the loader, between the requests for two batches. So the set-up
and tear-down of a run are left out, and the overhead of a loop per step is known in milliseconds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import distributed

from benchmarks.loops import CONTESTANTS, HAND
from benchmarks.pairs import in_turn, quartiles, seconds_of
from benchmarks.race import Contestant, run
from benchmarks.work import Work
from twinloop.data.batches import Batch, Batches
from twinloop.data.cache import DecodedData, Split
from twinloop.data.datamodule import ImageDataModule

ROOT = Path(__file__).parents[1]
LOOPS = (HAND, "Learner, all features", "Lightning, all features")
BARE_LOOPS = (HAND, "Learner, metrics", "Lightning, barebones")
TIMES = (1, 4, 16)
BATCHES = (32, 128, 512, 2048, 8192)
WIDTHS = (1, 2, 4, 8)
PROCESSES = (1, 2)
LEAST_STEPS = 6
IMAGES = 8192
"""Training images per batch size, if they are more than `LEAST_STEPS` batches."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """The rows of all four variables."""
    return [
        *by_data(source, TIMES),
        *by_batch(source, device, rounds),
        *by_width(source, device, rounds),
        *by_processes(source, device, rounds),
    ]


def by_data(source: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The data set repeated several times: batches alone, each size in a new process."""
    found = []
    split = ImageDataModule(source).data.train
    for times in sizes:
        with TemporaryDirectory() as folder:
            for name, part in (("images", split.images), ("labels", split.labels)):
                repeated = np.concatenate([part.numpy()] * times)
                np.save(Path(folder) / f"{name}.npy", repeated)
            call = f"from benchmarks import growth; growth.print_cost({source!r}, {folder!r})"
            command = [sys.executable, "-c", call]
            printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
            found.append({"grows": "data", "times": times} | json.loads(printed))
    return found


def print_cost(source: str, folder: str) -> None:
    """Print the time and memory of batches from the arrays in `folder`, in a new process.

    Pages of mapped files are counted apart, because the system reclaims them when it needs memory.
    """
    data = ImageDataModule(source)
    images, labels = (
        torch.from_numpy(np.load(Path(folder) / f"{name}.npy", mmap_mode="c"))
        for name in ("images", "labels")
    )
    small = data.data
    data.data = DecodedData(small.spec, Split(images, labels), small.test, small.test_split)

    def epoch() -> None:
        for batch in data.train_batches():
            data.on_after_batch_transfer(batch, 0)

    seconds = [seconds_of(epoch, torch.device("cpu")) for _ in range(4)][1:]
    count = len(data.rows["train"])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = {name: int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}
    cost = {
        "images": count,
        "us_per_image": statistics.median(seconds) / count * 1e6,
        "own_mb": memory["RssAnon"],
        "mapped_mb": memory["RssFile"],
    }
    print(json.dumps(cost))


def by_batch(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A small network, with increasing batch sizes."""
    found = []
    images = len(ImageDataModule(source).rows["train"])
    for size in BATCHES:
        if images // size >= LEAST_STEPS:
            steps = max(LEAST_STEPS, IMAGES // size)
            work = Work("lesson-classifier", source, device, batch_size=size, limit=steps)
            found += _by_loop(work, rounds, grows="batch", size=size)
    return found


def by_width(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """The bottleneck autoencoder, from an eighth of its channels and hidden units to all."""
    found = []
    for times in WIDTHS:
        model = {"widths": [2 * times, 4 * times], "hidden": 32 * times}
        work = Work("autoencoder", source, device, limit=10, model=model)
        found += _by_loop(work, rounds, grows="width", times=times)
    return found


def _by_loop(work: Work, rounds: int, **about: Any) -> list[dict[str, Any]]:
    """A row per loop: the time of its steps, and its overhead over the hand-written loop."""
    ways = {loop: partial(seconds_of_step, work, CONTESTANTS[loop]) for loop in LOOPS}
    times = in_turn(ways, rounds)
    lines = []
    for loop in LOOPS:
        pairs = list(zip(times[loop], times[HAND], strict=True))
        line = about | {"loop": loop, "step_ms": quartiles(1000 * a for a, _ in pairs)}
        if loop != HAND:
            line["added_ms"] = quartiles(1000 * (a - b) for a, b in pairs)
            line["share"] = quartiles((a - b) / a for a, b in pairs)
        lines.append(line | {"n": rounds})
    return lines


def seconds_of_step(work: Work, contestant: Contestant) -> float:
    """Median seconds of a training step, excluding the first two."""
    requested: list[float] = []
    iterate = Batches.__iter__

    def clocked(self: Batches) -> Iterator[Batch]:
        batches = iterate(self)
        while True:
            if self.shuffle:  # the batches of train
                if work.device.type == "cuda":
                    torch.cuda.synchronize(work.device)
                requested.append(time.perf_counter())
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    with patch.object(Batches, "__iter__", clocked):
        run(work, contestant)
    steps = requested[2 : work.limits["train"]]
    return statistics.median(later - earlier for earlier, later in pairwise(steps))


def by_processes(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """One process, and two with as many images each (ddp), over gloo on a CPU."""

    def once(loop: str, processes: int) -> float:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        with TemporaryDirectory() as folder:
            answer = Path(folder) / "seconds"
            script = ["benchmarks.growth", loop, source, str(device), str(answer)]
            command = [sys.executable, "-m", *torchrun, "-m", *script]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            return float(answer.read_text())

    ways = {
        f"{loop} {processes}": partial(once, loop, processes)
        for loop in BARE_LOOPS
        for processes in PROCESSES
    }
    times = in_turn(ways, rounds)
    return [
        {
            "grows": "processes",
            "processes": processes,
            "loop": loop,
            "step_ms": quartiles(1000 * seconds for seconds in times[f"{loop} {processes}"]),
            "n": rounds,
        }
        for loop in BARE_LOOPS
        for processes in PROCESSES
    ]


def one_of_several(loop: str, source: str, device: str, answer: str) -> None:
    """Started by torchrun: train; the first process writes the seconds of a step to `answer`."""
    torch.set_num_threads(1)
    images = len(ImageDataModule(source).rows["train"])
    size = min(256, images // (PROCESSES[-1] * (LEAST_STEPS + 2)))
    work = Work("lesson-classifier", source, torch.device(device), batch_size=size, limit=30)
    if "Lightning" not in loop:  # whose strategy joins them
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    seconds = seconds_of_step(work, CONTESTANTS[loop])
    if os.environ["RANK"] == "0":
        Path(answer).write_text(str(seconds))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    one_of_several(*sys.argv[1:])
