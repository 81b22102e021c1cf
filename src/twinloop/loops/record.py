"""Record every value of a run: an adapter for either loop."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import Optimizer

from twinloop.learner import Callback, Learner, Order
from twinloop.runs.record import Record, copied, flat, gradient, logged


class KeepRecord(Checkpoint):
    """Records a Trainer's run. As a `Checkpoint` it is called after the task's own epoch end."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.start = copied(pl_module.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.state = copied(pl_module.state_dict())
        self.record.optimizer = flat(trainer.optimizers[0].state_dict())

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        """Record the loss, which is divided where batches are accumulated."""
        self.record.steps.append({"loss": outputs["loss"].detach().clone()})

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Record the gradient before it is clipped."""
        self.record.steps.append(gradient(optimizer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.metrics.append(logged(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.metrics.append(logged(trainer.callback_metrics))


class KeepRecordCB(Callback):
    """Records a Learner's run."""

    order = Order.CLIP - 1

    def __init__(self, record: Record) -> None:
        self.record = record

    def before_fit(self, learn: Learner) -> None:
        self.record.start = copied(learn.model.state_dict())

    def after_fit(self, learn: Learner) -> None:
        self.record.state = copied(learn.model.state_dict())
        self.record.optimizer = flat(learn.opt.state_dict())

    def before_step(self, learn: Learner) -> None:
        """Record the gradient before it is clipped."""
        self.record.steps.append(gradient(learn.opt))

    def after_batch(self, learn: Learner) -> None:
        """Record the loss, which is divided where batches are accumulated."""
        if learn.training:
            self.record.steps.append({"loss": learn.loss.detach().clone()})

    def after_epoch(self, learn: Learner) -> None:
        self.record.metrics.append(logged(learn.metrics))
