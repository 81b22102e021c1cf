"""What changes from batch to batch: learning rate, momentum, loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from twinloop import figures
from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = Tensor | float


class RecorderCB(Callback):
    """Records learning rate, momentum and loss of each batch of train, or `values` of your own.

    >>> recorder = RecorderCB(lr=lambda cb: cb.pg["lr"])  # the lesson's

    Args:
        values: By name, functions of this callback, whose `pg` is the optimiser's first group of
            parameters, and whose `loss` is that of the batch.
    """

    order = Order.REPORT
    opt_needs = ("param_groups",)

    def __init__(self, **values: Callable[["RecorderCB"], Value]) -> None:
        self.values = values or {
            "lr": lambda cb: float(cb.pg["lr"]),
            "momentum": momentum,
            "loss": lambda cb: cb.loss,
        }
        self._seen: dict[str, list[Value]] = {name: [] for name in self.values}

    def before_fit(self, learn: Learner) -> None:
        self._seen = {name: [] for name in self.values}
        self.pg: dict[str, Any] = learn.opt.param_groups[0]

    def after_loss(self, learn: Learner) -> None:
        """Record before the step, after which a schedule sets the values of the next batch."""
        if learn.training:
            self.loss = learn.loss.detach()
            for name, value in self.values.items():
                self._seen[name].append(value(self))

    @property
    def recs(self) -> dict[str, list[float]]:
        """The values of each batch of the last fit, by name."""
        return {name: [float(value) for value in seen] for name, seen in self._seen.items()}

    def plot(self) -> "Figure":
        """Each value over the batches."""
        return figures.batches(self.recs)


def momentum(cb: RecorderCB) -> float:
    """The share of the last step that the next one keeps: the first beta of Adam; 0 without any."""
    share = cb.pg.get("betas", [cb.pg.get("momentum", 0.0)])[0]
    return float(torch.as_tensor(share))
