"""The time of a training step by layer, and how near each is to what the cores can do.

A layer is timed alone, forward and backward, on a random batch. The peak is the speed of a product
of two square matrices; a layer's limit is its operations at that speed.
"""

import statistics
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pairs import seconds_of
from benchmarks.work import Work
from twinloop.convolution.chain import Layer, layers_of

EXPERIMENTS = ("autoencoder", "classifier")
SIDE = 1024
"""Of the matrices whose product gives the peak."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """For both strong experiments, a row for each layer."""
    peak = speed_of_product(device, rounds)
    found = []
    for experiment in EXPERIMENTS:
        work = Work(experiment, source, device)
        layers = layers_of(work.task().train().network, work.data.spec.image_shape)
        for number, layer in enumerate(layers):
            shape = (work.batch_size, *layer.input_shape)
            x = torch.rand(shape, device=device, requires_grad=number > 0)
            seconds, operations = cost(layer, x, rounds)
            found.append(
                {
                    "experiment": experiment,
                    "layer": layer.name,
                    "kind": type(layer.module).__name__,
                    "seconds": seconds,
                    "operations": operations,
                    "of_peak": operations / seconds / peak,
                    "n": rounds,
                }
            )
    return found


def speed_of_product(device: torch.device, rounds: int) -> float:
    """Floating-point operations per second of a product of square matrices; the fastest round."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)
    return 2 * SIDE**3 / min(seconds_of(lambda: a @ b, device) for _ in range(rounds + 1))


def cost(layer: Layer, x: Tensor, rounds: int) -> tuple[float, int]:
    """Median seconds of a pass forward and backward, and its floating-point operations."""
    module = layer.module
    leaves = [value for value in (x, *module.parameters()) if value.requires_grad]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        output = module(x)
        if leaves:
            output.backward(torch.ones_like(output))

    with FlopCounterMode(display=False) as counter:
        step()
    times = [seconds_of(step, x.device) for _ in range(rounds + 1)][1:]
    return statistics.median(times), counter.get_total_flops()
