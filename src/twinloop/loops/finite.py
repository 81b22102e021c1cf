"""The Trainer's counterpart of `FiniteLossCB`."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.tasks import Task


class FiniteLoss(Callback):
    """Ends the fit at a loss that is NaN or infinite, before it reaches the weights.

    In validation a loss is checked one batch later, so that a GPU is not waited for.

    Raises:
        NotFiniteError: names the batch, its rows and the first layer that is not finite.
    """

    def __init__(self) -> None:
        self.validated: list[tuple[LossCheck, int, Any, list[Tensor]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what is needed to compute the batch once more: its data, and the random state."""
        self.kept = batch_idx, batch, random_state()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self.check = LossCheck(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._demand(trainer, pl_module, "train", self.check, *self.kept)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the checks of a validation that was cut short."""
        self.validated.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Check the previous batch of validation, and after the last batch that one too."""
        self.validated.append((LossCheck(outputs), batch_idx, batch, random_state()))
        waiting = 1 if batch_idx + 1 < trainer.num_val_batches[0] else 0
        while len(self.validated) > waiting:
            self._demand(trainer, pl_module, "val", *self.validated.pop(0))

    def _demand(
        self,
        trainer: Trainer,
        task: LightningModule,
        stage: str,
        check: LossCheck,
        number: int,
        batch: Any,
        random: list[Tensor],
    ) -> None:
        if check.passed():
            return
        assert isinstance(task, Task)

        def forward() -> Tensor:
            with trainer.precision_plugin.forward_context():
                inputs, target = task.inputs_and_targets(batch)
                return task.loss(task(inputs), target)

        loader: Any = trainer.train_dataloader if stage == "train" else trainer.val_dataloaders
        raise check.error(
            place(stage, trainer.current_epoch, number, trainer.global_step),
            loader.rows_of(number),
            lambda: first_not_finite(task, forward, random),
        )
