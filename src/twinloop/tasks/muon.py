"""Muon: steps of convolutions and linear layers, made orthogonal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from twinloop.errors import UserError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that moves singular values towards 1, the steepest at 0 (Jordan et al.)."""
ITERATIONS = 5
OPTIONS = ("lr", "momentum", "weight_decay")


class Muon(Optimizer):
    """SGD with Nesterov momentum, whose step has singular values near 1 in place of its own.

    So rare directions are learnt as fast as frequent ones (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/). The weight of a convolution is taken as the matrix
    `[outputs, inputs * height * width]`. torch's Muon takes linear layers only, and computes in
    bfloat16, for which many CPUs have no instructions; this one computes in float32.

    Args:
        params: Weights of at least two dimensions; others need another optimiser, see `Grouped`.
        lr: Learning rate: the spectral norm of a step, which is `sqrt(rows / columns)` times as
            large for a matrix of more rows than columns.
        momentum: The share of the mean of former gradients that is kept in each step.
        weight_decay: The share of a weight, times `lr`, that is subtracted in each step.

    Raises:
        UserError: a parameter of fewer dimensions.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        shapes = [list(p.shape) for group in self.param_groups for p in group["params"]]
        if vector := next((shape for shape in shapes if len(shape) < 2), None):
            raise UserError(
                f"model.optimizer: Muon takes weights of convolutions and linear layers, and one "
                f"has the shape {vector}; use twinloop.tasks.Grouped, with Muon for ndim 4 or 2"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; `closure` computes the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, **{name: group[name] for name in OPTIONS})
        return loss

    def _update(
        self, weight: Tensor, gradient: Tensor, lr: float, momentum: float, weight_decay: float
    ) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        step = orthogonalized(gradient.lerp(mean, momentum).flatten(1))
        rows, columns = step.shape
        weight.mul_(1 - lr * weight_decay)
        weight.add_(step.reshape(weight.shape), alpha=-lr * max(1, rows / columns) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly: `[M, N] -> [M, N]`, singular values 0.7 to 1.2.

    By Newton-Schulz iterations, whose polynomials are multiplied before the matrix is: they are
    square, of the shorter side. In float32 at least. A matrix of zeros stays as it is.
    """
    a, b, c = COEFFICIENTS
    exact: Tensor = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    wide = exact.T if matrix.shape[0] > matrix.shape[1] else exact
    wide = wide / wide.norm().clamp(min=torch.finfo(wide.dtype).tiny)
    gram = wide @ wide.T
    identity = product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(ITERATIONS):
        polynomial = a * identity + b * gram + c * gram @ gram
        gram = polynomial @ gram @ polynomial
        product = polynomial @ product
    step: Tensor = product @ wide
    return (step.T if wide.shape != matrix.shape else step).to(matrix.dtype)
