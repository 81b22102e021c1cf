"""What the Learner's loop costs over one written by hand.

Goal:    the Learner with TrainCB and MetricsCB takes at most 1.03 times as long as a hand-written
         loop with the same batches and the same metrics; lesson CNN, batches of 256
Command: .venv/bin/python experiments/bench_learner.py [--rounds 31] [--threads 1]
         (DATA=FOLDER takes Fashion-MNIST from there instead of random pictures)
Machine: 2 cores of an AMD EPYC (Zen 5) that others worked on too (load 1 to 4), torch 2.13.0
Time:    1 minute
Result:  1.017 of CPU time (quartiles 0.998 and 1.024, n = 21 pairs of epochs, 1 thread); 1.017,
         1.018 and 1.019 in three other runs (n = 15, 17, 17). Hand-written epochs differ from
         each other by about 1 %. The calls cost about 0.05 ms a batch of 10 ms, half a per cent;
         part of the rest is how memory happens to be handed out: 1.010 (n = 15) where it is
         never given back (MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ at 1000000000)
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.data.batches import Batches
from twinloop.data.cache import Split
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import Accuracy, Callback, DataLoaders, Learner, Loss
from twinloop.learner.callbacks import MetricsCB, TrainCB
from twinloop.models import LessonClassifier

LR = 0.1
PICTURES = {"train": 20_480, "val": 2_560}  # 80 and 10 batches of 256
Epoch = Callable[[], dict[str, float]]


class FloatsCB(Callback):
    """A batch of the loader as what the network takes."""

    def before_batch(self, learn: Learner) -> None:
        """Pixels in [0, 1]."""
        learn.batch = floats(learn.batch)


def floats(batch: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """Bytes to float32 in [0, 1], and the labels."""
    return batch[0].float() / 255, batch[1]


def loaders() -> DataLoaders:
    """New loaders of the same pictures."""
    split = pictures()
    rows = torch.split(torch.arange(sum(PICTURES.values())), list(PICTURES.values()))
    train, valid = (Batches(split, part, 256) for part in rows)
    return DataLoaders(train, valid)


def pictures() -> Split:
    """Those of the folder that DATA names, or random ones."""
    if os.environ.get("DATA"):
        return ImageDataModule(os.environ["DATA"]).data.train
    draw = torch.Generator().manual_seed(0)
    n = sum(PICTURES.values())
    images = torch.randint(256, (n, 1, 28, 28), generator=draw, dtype=torch.uint8)
    return Split(images, torch.randint(10, (n,), generator=draw))


def network() -> nn.Module:
    """The same start for both loops."""
    torch.manual_seed(0)
    return LessonClassifier((1, 28, 28), 10)


def by_hand(model: nn.Module) -> Epoch:
    """An epoch of train and of valid, without a Learner."""
    dls, opt = loaders(), torch.optim.SGD(model.parameters(), LR)
    metrics = {stage: (Loss(), Accuracy()) for stage in ("train", "val")}

    def one_epoch() -> dict[str, float]:
        numbers: dict[str, float] = {}
        for stage, dl in zip(metrics, dls, strict=True):
            loss_metric, accuracy = metrics[stage]
            loss_metric.reset()
            accuracy.reset()
            training = stage == "train"
            model.train(training)
            with torch.set_grad_enabled(training):
                for batch in dl:
                    xb, yb = floats(batch)
                    preds = model(xb)
                    loss = F.cross_entropy(preds, yb)
                    with torch.no_grad():
                        loss_metric.add(loss, n=len(yb))
                        accuracy.update(preds.detach(), yb)
                    if training:
                        loss.backward()  # type: ignore[no-untyped-call]
                        opt.step()
                        opt.zero_grad()
            numbers[f"{stage}/loss"] = float(loss_metric.compute())
            numbers[f"{stage}/accuracy"] = float(accuracy.compute())
        return numbers

    return one_epoch


def by_learner(model: nn.Module) -> Epoch:
    """The same epoch by a Learner."""
    metrics = MetricsCB(accuracy=Accuracy())
    learn = Learner(model, loaders(), lr=LR, cbs=[FloatsCB(), metrics, TrainCB()])

    def one_epoch() -> dict[str, float]:
        learn.fit(1)
        return {name: value for name, value in metrics.history[0].items() if name != "epoch"}

    return one_epoch


class Timed(NamedTuple):
    """What an epoch took, and its numbers."""

    clock: float  # s
    cpu: float  # s that this process has computed for; other processes matter less to it
    numbers: dict[str, float]


def timed(epoch: Epoch) -> Timed:
    """Do an epoch."""
    clock, cpu = time.perf_counter(), time.process_time()
    numbers = epoch()
    return Timed(time.perf_counter() - clock, time.process_time() - cpu, numbers)


def quartiles(values: list[float], form: str) -> list[str]:
    """Median, lower and upper quartile, smallest and largest."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return [format(value, form) for value in (median, low, high, min(values), max(values))]


def main() -> None:
    """Time both loops in turn, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31, help="pairs of epochs that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    models = [network(), network()]
    loops = [by_hand(models[0]), by_learner(models[1])]
    rows: list[list[Timed]] = []
    load = os.getloadavg()[0]
    for number in range(options.rounds + 2):
        row = [timed(loop) for loop in loops]
        if row[0].numbers != row[1].numbers:
            raise SystemExit(f"the loops do not do the same: {row[0].numbers}, {row[1].numbers}")
        if number >= 2:  # the first two are to warm up
            rows.append(row)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        if not torch.equal(one, other):
            raise SystemExit("the loops do not end with the same weights")

    table = Table("", "median", "quartiles", "", "smallest", "largest")
    for kind in ("clock", "cpu"):
        hand, learner = ([getattr(row[loop], kind) for row in rows] for loop in (0, 1))
        ratios = [b / a for a, b in zip(hand, learner, strict=True)]
        again = [b / a for a, b in pairwise(hand)]
        table.add_row(f"by hand, {kind} s", *quartiles(hand, ".3f"))
        table.add_row(f"Learner, {kind} s", *quartiles(learner, ".3f"))
        table.add_row(f"Learner / by hand, {kind}", *quartiles(ratios, ".4f"), style="bold")
        table.add_row(f"by hand / the one before, {kind}", *quartiles(again, ".4f"))
    console = Console()
    console.print(
        f"{options.rounds} pairs of epochs, {options.threads} thread(s), load {load:.2f} before "
        f"and {os.getloadavg()[0]:.2f} after, torch {torch.__version__}, {platform.machine()}, "
        f"pictures {os.environ.get('DATA') or 'random'}",
        highlight=False,
    )
    console.print(table)


if __name__ == "__main__":
    main()
