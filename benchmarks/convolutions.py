"""The speed of im2col beside F.unfold with a matrix product, and beside F.conv2d.

Forward only, float32, batches of 256; a single image also by plain loops.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pairs import Target, in_turn, row, seconds_of
from twinloop.convolution.chain import layers_of
from twinloop.convolution.conv2d import conv2d_im2col, conv2d_loops, conv2d_unfold
from twinloop.models import LessonClassifier, SequentialClassifier

BATCH = 256
LEAST_SECONDS = 0.02
"""A measurement is the mean of as many calls as take this long."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Every convolution of both classifiers, on random images."""
    found = by_layer("1-1 at 28x28, one image", nn.Conv2d(1, 1, 3), (1, 1, 28, 28), device, rounds)
    for name, model in (
        ("lesson", LessonClassifier((1, 28, 28), 10)),
        ("classifier", SequentialClassifier((1, 28, 28), 10, (16, 32, 64, 128, 256))),
    ):
        for layer in layers_of(model, (1, 28, 28)):
            conv, (channels, *size) = layer.module, layer.input_shape
            if isinstance(conv, nn.Conv2d):
                place = f"{size[0]}x{size[1]}, stride {conv.stride[0]}"
                text = f"{name} {channels}-{len(conv.weight)} at {place}"
                found += by_layer(text, conv, (BATCH, channels, *size), device, rounds)
    return found


def by_layer(
    name: str, conv: nn.Conv2d, shape: tuple[int, ...], device: torch.device, rounds: int
) -> list[dict[str, Any]]:
    """One layer: im2col beside each alternative."""
    x, weight = torch.randn(shape, device=device), torch.randn(conv.weight.shape, device=device)
    stride, padding = conv.stride[0], int(conv.padding[0])
    ways: dict[str, Callable[[], Tensor]] = {
        "im2col": lambda: conv2d_im2col(x, weight, stride=stride, padding=padding),
        "F.unfold": lambda: conv2d_unfold(x, weight, stride=stride, padding=padding),
        "F.conv2d": lambda: F.conv2d(x, weight, stride=stride, padding=padding),
    }
    if shape[0] == 1:
        ways["loops"] = lambda: conv2d_loops(x, weight, stride=stride, padding=padding)

    def once(way: str, calls: int) -> float:
        ways[way]()

        def repeated() -> None:
            for _ in range(calls):
                ways[way]()

        return seconds_of(repeated, device) / calls

    with torch.no_grad():
        calls = {way: max(1, round(LEAST_SECONDS / once(way, 3))) for way in ways}
        times = in_turn({way: partial(once, way, calls[way]) for way in ways}, rounds)
    targets = {"F.unfold": Target(1.0), "F.conv2d": None, "loops": None}
    return [row(times, "im2col", way, targets[way], layer=name) for way in ways if way != "im2col"]
