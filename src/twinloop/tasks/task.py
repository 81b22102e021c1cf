"""What every task shares: one definition of an experiment, for whichever loop runs it."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.tasks.schedule import Schedule

ImageBatch = tuple[Tensor, Tensor]
"""Pictures float32 `[B, C, H, W]` in [0, 1] and labels int64 `[B]`."""


class Task(LightningModule):
    """A network, and what it is trained for.

    A subclass says what goes in and what should come out (`inputs_and_targets`), how far off it
    is (`loss`), and which metrics to count. Metrics are logged at the end of an epoch under
    `train/`, `val/` and `test/`; those that are no single number (per class, confusion) are kept
    in `last_metrics`, by the same names.
    """

    monitor: ClassVar[str]
    """The metric that chooses the best checkpoint."""
    mode: ClassVar[str]
    """'min' or 'max': which end of `monitor` is better."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable,
        schedule: Schedule | None,
        spec: DataSpec,
        metrics: dict[str, MetricCollection],
    ) -> None:
        super().__init__()
        # Convolutions on CPUs and GPUs are fastest with the channels of a pixel side by side.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer
        self.schedule = schedule
        self.spec = spec
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric() for _ in range(3))
        self.train_metrics = metrics["train"]
        self.val_metrics = metrics["val"]
        self.test_metrics = metrics["test"]
        self.last_metrics: dict[str, Tensor] = {}

    @abstractmethod
    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """What the network is given and what it should answer."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """How far `output` is from `target`, one number, the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """The network's answer to `x`."""
        output: Tensor = self.network(x)
        return output

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The loss of one batch, to go backward from."""
        loss = self._count("train", batch)
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Count one batch of val."""
        self._count("val", batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Count one batch of test."""
        self._count("test", batch)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The network's answer to a person's own pictures."""
        output: Tensor = self(batch[0])
        return output

    def on_train_epoch_end(self) -> None:
        """Log the epoch's train metrics."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's val metrics."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser, and the schedule for the length of this run."""
        optimizer = self.optimizer(self.network.parameters())
        if self.schedule is None:
            return optimizer
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        if steps == float("inf") or epochs is None:
            raise UserError(
                "model.schedule needs to know how long the run is; set trainer.max_epochs"
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": self.schedule(optimizer, int(steps), epochs),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what predict must know of the data, in plain types."""
        checkpoint["data_spec"] = self.spec._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with a schedule that was planned for another length of run."""
        steps = self.trainer.estimated_stepping_batches
        for scheduler in checkpoint["lr_schedulers"]:
            planned = scheduler.get("total_steps", steps)
            if planned != steps:
                raise UserError(
                    f"model.schedule was planned for {planned:,} steps, and this run has "
                    f"{steps:,}; pass the trainer.max_epochs and data.batch_size it started with"
                )

    def _count(self, stage: str, batch: ImageBatch) -> Tensor:
        inputs, target = self.inputs_and_targets(batch)
        output = self(inputs)
        loss = self.loss(output, target)
        with torch.no_grad():
            getattr(self, f"{stage}_loss").update(loss.detach(), weight=len(target))
            getattr(self, f"{stage}_metrics").update(output.detach(), target)
        return loss

    def _log_epoch(self, stage: str) -> None:
        mean_loss = getattr(self, f"{stage}_loss")
        metrics = getattr(self, f"{stage}_metrics")
        values = {f"{stage}/loss": mean_loss.compute()} | metrics.compute()
        mean_loss.reset()
        metrics.reset()
        self.last_metrics |= values
        self.log_dict({name: value for name, value in values.items() if value.numel() == 1})
