"""How fast are our convolutions beside F.unfold + matrix product, and beside F.conv2d?

Goal:    im2col at batch 256 no slower than F.unfold + matrix product; its factor to F.conv2d known
Command: python experiments/bench_convolution.py [--threads 1] [--rounds 9] [--batch 256]
Machine: 2 cores of an AMD EPYC (Zen 5), shared with other programs, torch 2.13.0, 1 thread
Time:    25 s
Result:  at batch 256 im2col takes 0.16 to 0.94 of unfold's time and 1.35 to 6.1 times that of
         conv2d; one picture of 28x28: loops 9,820 us, im2col 84 us, unfold 70 us, conv2d 7 us
         (medians of 9 rounds, first run of 2; in the second im2col / unfold was 1.09 for the layer
         64-64, which four runs of it alone put at 0.71 to 0.74 with 1 thread and 0.88 to 1.23 with
         2). With 2 threads the medians of all layers lay between 0.21 and 1.32, and layers around 1
         changed sides from run to run: there the other programs weigh more than the difference.

Every round times each way once, one after the other, so that all see the same machine; a ratio is
taken within a round, and the median of the rounds is printed. Forward only, float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.convolution.chain import layers_of
from twinloop.convolution.im2col import conv2d_im2col, conv2d_loops, conv2d_unfold
from twinloop.models import LessonClassifier, SequentialClassifier

LEAST_SECONDS = 0.02
"""A way is called as often as takes this long, and the mean of the calls is one measurement."""


def main() -> None:
    """Time all layers and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)

    title = f"{options.threads} threads, {options.rounds} rounds, torch {torch.__version__}"
    table = Table(title=title)
    for column in ("layer", "batch", "loops", "im2col", "unfold", "conv2d"):
        table.add_column(column, justify="right" if column != "layer" else "left")
    table.add_column("im2col / unfold", justify="right")
    table.add_column("im2col / conv2d", justify="right")

    single = nn.Conv2d(1, 1, 3)
    table.add_row("1-1 at 28x28", "1", *measure(single, (1, 28, 28), 1, options.rounds, generator))
    for name, model in (
        ("lesson", LessonClassifier((1, 28, 28), 10)),
        ("classifier", SequentialClassifier((1, 28, 28), 10, (16, 32, 64, 128, 256))),
    ):
        for layer in layers_of(model, (1, 28, 28)):
            conv, shape = layer.module, layer.input_shape
            if isinstance(conv, nn.Conv2d):
                size = f"{shape[1]}x{shape[2]}"
                text = f"{name} {shape[0]}-{len(conv.weight)} at {size}, stride {conv.stride[0]}"
                found = measure(conv, shape, options.batch, options.rounds, generator)
                table.add_row(text, str(options.batch), *found)
    Console(width=120).print(table)


def measure(
    conv: nn.Conv2d, shape: tuple[int, ...], batch: int, rounds: int, generator: torch.Generator
) -> list[str]:
    """The table's cells of one layer: a time for each way, and the two ratios."""
    x = torch.randn(batch, *shape, generator=generator)
    weight = torch.randn(conv.weight.shape, generator=generator)
    stride, padding = conv.stride[0], int(conv.padding[0])
    ways: dict[str, Callable[[], Tensor]] = {
        "im2col": lambda: conv2d_im2col(x, weight, stride=stride, padding=padding),
        "unfold": lambda: conv2d_unfold(x, weight, stride=stride, padding=padding),
        "conv2d": lambda: F.conv2d(x, weight, stride=stride, padding=padding),
    }
    if batch == 1:
        ways["loops"] = lambda: conv2d_loops(x, weight, stride=stride, padding=padding)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        calls = {name: max(1, round(LEAST_SECONDS / timed(way, 3))) for name, way in ways.items()}
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(timed(way, calls[name]))
    medians = {name: microseconds(statistics.median(times)) for name, times in seconds.items()}
    ratios = [
        statistics.median(a / b for a, b in zip(seconds["im2col"], seconds[other], strict=True))
        for other in ("unfold", "conv2d")
    ]
    cells = [medians.get(name, "") for name in ("loops", "im2col", "unfold", "conv2d")]
    return [*cells, *(f"{ratio:.2f}" for ratio in ratios)]


def timed(way: Callable[[], Tensor], calls: int) -> float:
    """Mean seconds of one call, after a first that is not counted."""
    way()
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls


def microseconds(seconds: float) -> str:
    """`1,234 us`."""
    return f"{seconds * 1e6:,.0f} us"


if __name__ == "__main__":
    main()
