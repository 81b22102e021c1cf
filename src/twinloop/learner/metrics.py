"""Metrics with the lesson's interface; any torchmetrics metric works in their place."""

from typing import Any

import torch
from torch import Tensor


class Metric:
    """The mean of a value over an epoch, each batch weighted by its size.

    `update`, `compute` and `reset` have the names of torchmetrics.

    >>> mean = Metric()
    >>> mean.add(torch.tensor(1.0), n=1)
    >>> mean.add(torch.tensor(4.0), n=2)
    >>> mean.value
    tensor(3.)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new mean."""
        self.total: Tensor = torch.tensor(0.0)
        self.n = 0

    def add(self, inps: Tensor | float, targs: Tensor | None = None, n: int | None = None) -> None:
        """Add a batch of `n` samples: as many as `targs` has, or 1 without, unless given."""
        n = n if n is not None else 1 if targs is None else len(targs)
        # Summed on its device: reading a value would make the CPU wait for a GPU at every batch.
        # Multiplied in the same operation, or a loss in bfloat16 would be rounded in between.
        value = torch.as_tensor(self.calc(inps, targs)).detach()
        self.total = torch.add(self.total.to(value.device), value, alpha=n)
        self.n += n

    def calc(self, inps: Any, targs: Tensor | None) -> Tensor | float:
        """The value of one batch, a mean over it."""
        value: Tensor | float = inps
        return value

    @property
    def value(self) -> Tensor:
        """The mean so far; NaN before the first batch."""
        return self.total / self.n if self.n else torch.tensor(torch.nan)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.add(preds, targets)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.value


class Accuracy(Metric):
    """The share of rows whose largest logit, or predicted class, is the label's."""

    def calc(self, inps: Tensor, targs: Tensor | None) -> Tensor:
        """The accuracy of one batch: logits `[B, classes]` or classes `[B]`, labels `[B]`."""
        assert targs is not None
        classes = inps if inps.ndim == targs.ndim else inps.argmax(dim=1)
        return classes.eq(targs).float().mean()


class Loss(Metric):
    """The mean loss; what is added is the loss of a batch in place of predictions."""
