"""End a Trainer's fit at a loss that is not finite, as `FiniteLossCB` ends a Learner's."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from twinloop.finite import LossCheck, first_not_finite, place, random_state
from twinloop.tasks import Task


class FiniteLoss(Callback):
    """Ends the fit at a loss that is NaN or infinite, before it gets into the weights.

    Validation ends it too, a batch later: a GPU then has the next one to do while it is asked.

    Raises:
        NotFiniteError: says in which batch, rows and layer it began.
    """

    def __init__(self) -> None:
        self.validated: list[tuple[LossCheck, int, Any, list[Tensor]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch, and the generators before anything is drawn for it."""
        self.kept = batch_idx, batch, random_state()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Begin to ask."""
        self.check = LossCheck(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the fit before the step."""
        self._demand(trainer, pl_module, "train", self.check, *self.kept)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batches of a validation that was cut short."""
        self.validated.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask for the batch before this one, and at last for the last one."""
        self.validated.append((LossCheck(outputs), batch_idx, batch, random_state()))
        while len(self.validated) > (batch_idx + 1 < trainer.num_val_batches[0]):
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
