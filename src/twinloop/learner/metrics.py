"""Metrics by the lesson's interface; any torchmetrics metric works in their place."""

import torch
from torch import Tensor


class Metric:
    """The mean of a number over an epoch, each batch weighted by its size.

    `update`, `compute` and `reset` are what torchmetrics calls the same things.

    >>> mean = Metric()
    >>> mean.add(torch.tensor(1.0), n=1)
    >>> mean.add(torch.tensor(4.0), n=2)
    >>> mean.value
    tensor(3.)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self.total: Tensor = torch.tensor(0.0)
        self.n = 0

    def add(self, inps: Tensor, targs: Tensor | None = None, n: int | None = None) -> None:
        """Add a batch of `n` examples; as many as `targs` has, if `n` is not given."""
        n = n if n is not None else 1 if targs is None else len(targs)
        # Summed where the numbers are: reading one would make a GPU wait at every batch.
        # Multiplied as it is summed, or a loss in bfloat16 would be rounded in between.
        value = self.calc(inps, targs).detach()
        self.total = torch.add(self.total.to(value.device), value, alpha=n)
        self.n += n

    def calc(self, inps: Tensor, targs: Tensor | None) -> Tensor:
        """The number of one batch, a mean over it."""
        return inps

    @property
    def value(self) -> Tensor:
        """The mean so far; not a number before the first batch."""
        return self.total / self.n if self.n else torch.tensor(torch.nan)

    def update(self, preds: Tensor, targets: Tensor) -> None:
        """`add`, by torchmetrics' name."""
        self.add(preds, targets)

    def compute(self) -> Tensor:
        """`value`, by torchmetrics' name."""
        return self.value


class Accuracy(Metric):
    """The share of rows whose largest logit is the label's: `[B, classes]`, `[B]` -> one number."""

    def calc(self, inps: Tensor, targs: Tensor | None) -> Tensor:
        """The share in one batch."""
        assert targs is not None
        return inps.argmax(dim=1).eq(targs).float().mean()


class Loss(Metric):
    """The mean loss; `MetricsCB` adds each batch's loss in place of predictions."""
