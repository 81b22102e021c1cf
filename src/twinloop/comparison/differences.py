"""The differences between two runs, bit by bit."""

import math

import torch
from torch import Tensor

from twinloop.runs.record import Record


def differences(one: Record, other: Record) -> list[str]:
    """Where two records differ, in chronological order; empty if they are equal.

    Raises:
        AssertionError: the weights of a run have not changed, which would prove nothing.
    """
    for run in (one, other):
        assert any(not torch.equal(run.start[name], run.state[name]) for name in run.start)
    found = compare_tensors("start", one.start, other.start)
    found += _compare_lists("step", one.steps, other.steps)
    found += _compare_lists("metrics", one.metrics, other.metrics)
    found += compare_tensors("weights", one.state, other.state)
    return found + compare_tensors("optimiser", one.optimizer, other.optimizer)


def _compare_lists(
    what: str, one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]
) -> list[str]:
    found = [] if len(one) == len(other) else [f"{what}: {len(one)} against {len(other)}"]
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        found += compare_tensors(f"{what} {number}", a, b)
    return found


def compare_tensors(what: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Where two sets of named tensors differ: in names, types, shapes or any bit."""
    found = [f"{what}: only one has {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{what}: {name} is {a.dtype} {tuple(a.shape)} against {b.dtype}")
        elif not _same_bits(a, b):
            found.append(f"{what}: {name} differs by up to {_distance(a, b)}")
    return found


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Unlike `torch.equal`, zero and minus zero differ, and equal NaNs are equal."""
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    return torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))


def _distance(a: Tensor, b: Tensor) -> str:
    """The largest difference: absolute, relative, and in units in the last place."""
    one, other = a.detach().cpu().double().flatten(), b.detach().cpu().double().flatten()
    equal = (one == other) | (one.isnan() & other.isnan())
    far = torch.where(equal, 0.0, (one - other).abs())
    worst = int(far.argmax())
    if not math.isfinite(far[worst]):
        return (
            f"{float(far[worst]):.3g} ({float(one[worst]):.3g} against {float(other[worst]):.3g})"
        )
    size = max(float(one[worst].abs()), 1e-300)
    text = f"{float(far[worst]):.3g} ({float(far[worst]) / size:.1g} relative"
    if a.is_floating_point():
        unit = torch.finfo(a.dtype).eps * 2.0 ** math.floor(math.log2(size))
        text += f", {float(far[worst]) / unit:.3g} units in the last place"
    return f"{text})"
