"""A moving average of the weights, which often generalises better than the last weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.distributed import unwrapped
from twinloop.learner.learner import Learner


class AverageCB(Callback):
    """Exponential moving average of weights and buffers; Lightning: `EMAWeightAveraging`.

    The average (Polyak & Juditsky 1992) is what is validated, and what the model has at the end.

    Args:
        average: The decay, the share of the average that an update keeps; or a function
            `(average, weight, updates) -> average`.
        use_buffers: Average the buffers too; else they are copied from the model.
        should_update: Whether to update, asked with `(step, None)` after each step and with
            `(None, epoch)` after each epoch, both counted from 0; after each step if unset.
    """

    order = Order.AVERAGE

    def __init__(
        self,
        average: float | Callable[..., Any] = 0.999,
        *,
        use_buffers: bool = True,
        should_update: Callable[[int | None, int | None], bool] | None = None,
    ) -> None:
        self.avg_fn = average if callable(average) else get_ema_avg_fn(average)  # type: ignore[no-untyped-call]
        self.use_buffers = use_buffers
        self.should_update = should_update or (lambda step, _: step is not None)
        self.swapped = False

    def before_fit(self, learn: Learner) -> None:
        self.average = AveragedModel(
            learn.model,
            avg_fn=self.avg_fn,
            use_buffers=self.use_buffers,
        )
        if any(weight.dtype.itemsize < 4 for weight in learn.model.parameters()):
            self.average.float()  # in a type of few bits small changes would be rounded away
        self.seen = learn.steps

    def before_epoch(self, learn: Learner) -> None:
        """Validate the average, which never has fewer bits than the weights."""
        if next(learn.model.parameters()).dtype == torch.float64:
            self.average.double()
        if not learn.training:
            self.swap(learn)
            self.swapped = True

    def after_batch(self, learn: Learner) -> None:
        stepped = learn.training and learn.steps > self.seen
        if stepped and self.should_update(learn.steps - 1, None):
            self.average.update_parameters(learn.model)
            self.seen = learn.steps

    def after_epoch(self, learn: Learner) -> None:
        """Swap back before the epoch's checkpoint, which has the weights themselves."""
        self.cleanup_epoch(learn)
        if learn.ends_epoch and self.should_update(None, learn.epoch):
            self.average.update_parameters(learn.model)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Swap back even where validation was cut short."""
        if self.swapped:
            self.swap(learn)
            self.swapped = False

    def after_fit(self, learn: Learner) -> None:
        unwrapped(learn.model).load_state_dict(self.average.module.state_dict())

    def swap(self, learn: Learner) -> None:
        """Exchange the weights and buffers of the model with those of the average."""
        ours, mean = learn.model, self.average.module
        with torch.no_grad():
            for a, b in zip(
                [*ours.parameters(), *ours.buffers()],
                [*mean.parameters(), *mean.buffers()],
                strict=True,
            ):
                kept = a.clone()
                a.copy_(b)
                b.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The average, and the latest step in it."""
        return {"average": self.average.state_dict(), "latest_update_step": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if any(value.dtype == torch.float64 for value in state["average"].values()):
            self.average.double()
        self.average.load_state_dict(state["average"])
        self.seen = state["latest_update_step"]
