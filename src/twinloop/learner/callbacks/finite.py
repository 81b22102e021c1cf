"""No step with a loss that is not finite."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.learner.callback import Callback, Order
from twinloop.learner.callbacks.distributed import unwrapped
from twinloop.learner.learner import Learner


class FiniteLossCB(Callback):
    """Ends the fit at a loss that is NaN or infinite, before it reaches the weights.

    In validation a loss is checked one batch later, so that a GPU is not waited for.

    Args:
        rows: `(loader, number of a batch) -> rows of the train split [B]`, for the message; None
            where they are not known.

    Raises:
        NotFiniteError: names the batch, its rows and the first layer that is not finite.
    """

    order = Order.PREPARE

    def __init__(self, rows: Callable[[Any, int], Tensor | None] | None = None) -> None:
        self.rows = rows
        self.validated: list[tuple[LossCheck, int, Any, list[Tensor]]] = []

    def before_epoch(self, learn: Learner) -> None:
        """Drop the checks of a validation that was cut short."""
        self.validated.clear()

    def before_batch(self, learn: Learner) -> None:
        """Keep what is needed to compute the batch once more: its data, and the random state."""
        self.kept = learn.batch, random_state()

    def after_loss(self, learn: Learner) -> None:
        self.check = LossCheck(learn.loss)

    def after_backward(self, learn: Learner) -> None:
        self._demand(learn, self.check, learn.num, *self.kept)

    def after_batch(self, learn: Learner) -> None:
        """Check the previous batch of validation, and after the last batch that one too."""
        if learn.training:
            return
        self.validated.append((self.check, learn.num, *self.kept))
        waiting = 1 if learn.num + 1 < learn.n_batches else 0
        while len(self.validated) > waiting:
            self._demand(learn, *self.validated.pop(0))

    def _demand(
        self, learn: Learner, check: LossCheck, num: int, batch: Any, random: list[Tensor]
    ) -> None:
        """Raise NotFiniteError unless the check has passed."""
        if check.passed():
            return

        def forward() -> Tensor:
            learn.batch = batch
            learn.callback("before_batch")
            learn.model = unwrapped(learn.model)  # the other processes do not compute this batch
            learn.predict()
            learn.get_loss()
            return learn.loss

        raise check.error(
            place(learn.stage, learn.epoch, num, learn.steps),
            self.rows(learn.dl, num) if self.rows else None,
            lambda: first_not_finite(unwrapped(learn.model), forward, random),
        )
