"""Muon: its steps, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from twinloop.errors import UserError
from twinloop.tasks import Muon
from twinloop.tasks.muon import orthogonalized


def weight(*shape: int, seed: int = 0) -> nn.Parameter:
    """A parameter with a gradient."""
    made = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    made.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    return made


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_the_singular_values_of_a_step_are_near_1_and_its_directions_stay(
    shape: tuple[int, int],
) -> None:
    matrix = weight(*shape).double().detach()
    found = orthogonalized(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ found @ right.T
    assert values.diagonal().min() > 0.65
    assert values.diagonal().max() < 1.25
    assert (values - values.diagonal().diag()).abs().max() < 1e-12
    assert not orthogonalized(torch.zeros(2, 3)).any()


def test_it_takes_the_steps_of_torch_apart_from_the_rounding_to_bfloat16() -> None:
    ours, theirs = weight(40, 16), weight(40, 16)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
    one, other = Muon([ours], **options), torch.optim.Muon([theirs], **options)
    start = ours.detach().clone()
    for seed in range(3):
        ours.grad = theirs.grad = weight(40, 16, seed=seed).grad
        one.step()
        other.step()  # type: ignore[no-untyped-call]
    moved = (theirs - start).norm()
    assert moved > 1
    assert (ours - theirs).norm() < 0.01 * moved


def test_the_weight_of_a_convolution_is_the_matrix_of_its_outputs() -> None:
    kernels = nn.Parameter(weight(8, 3, 5, 5).detach().to(memory_format=torch.channels_last))
    matrix = nn.Parameter(kernels.detach().flatten(1).clone())
    kernels.grad = weight(8, 3, 5, 5).grad
    assert kernels.grad is not None
    matrix.grad = kernels.grad.flatten(1)
    for parameter in (kernels, matrix):
        Muon([parameter], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(kernels.flatten(1), matrix)


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match=r"one has the shape \[3\]; use twinloop.tasks.Grouped"):
        Muon([weight(2, 3), weight(3)])
