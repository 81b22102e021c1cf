"""No step by a loss that is no number."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.learner.callback import Callback
from twinloop.learner.callbacks.distributed import unwrapped
from twinloop.learner.learner import Learner


class FiniteLossCB(Callback):
    """Ends the fit at a loss that is NaN or infinite, before it gets into the weights.

    Validation ends it too, a batch later: a GPU then has the next one to do while it is asked.

    Args:
        rows: `(loader, number of a batch) -> rows of the train split`, to name them.

    Raises:
        NotFiniteError: says in which batch, rows and layer it began.
    """

    precedes = ("DeviceCB", "TruePrecisionCB")  # keeps a batch as it comes, to compute it again

    def __init__(self, rows: Callable[[Any, int], Tensor] | None = None) -> None:
        self.rows = rows
        self.validated: list[tuple[LossCheck, int, Any, list[Tensor]]] = []

    def before_epoch(self, learn: Learner) -> None:
        """Forget the batches of a validation that was cut short."""
        self.validated.clear()

    def before_batch(self, learn: Learner) -> None:
        """Keep the batch, and the generators before anything is drawn for it."""
        self.kept = learn.batch, random_state()

    def after_loss(self, learn: Learner) -> None:
        """Begin to ask."""
        self.check = LossCheck(learn.loss)

    def after_backward(self, learn: Learner) -> None:
        """End the fit before the step."""
        self._demand(learn, self.check, learn.num, *self.kept)

    def after_batch(self, learn: Learner) -> None:
        """Ask for the batch of validation before this one, and at last for the last one."""
        if learn.training:
            return
        self.validated.append((self.check, learn.num, *self.kept))
        while len(self.validated) > (learn.num + 1 < learn.n_batches):
            self._demand(learn, *self.validated.pop(0))

    def _demand(
        self, learn: Learner, check: LossCheck, num: int, batch: Any, random: list[Tensor]
    ) -> None:
        if check.passed():
            return

        def forward() -> Tensor:
            learn.batch = batch
            learn.callback("before_batch")
            learn.model = unwrapped(learn.model)  # the other processes do not go along
            learn.predict()
            learn.get_loss()
            return learn.loss

        raise check.error(
            place(learn.stage, learn.epoch, num, learn.steps),
            self.rows(learn.dl, num) if self.rows else None,
            lambda: first_not_finite(unwrapped(learn.model), forward, random),
        )
