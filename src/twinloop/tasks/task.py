"""What every task shares: one definition of an experiment, for whichever loop runs it."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, told_as_mistake
from twinloop.finite import check_weights
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
        # A copy of the task, for an average of its weights, shares a function; what the command
        # line makes of an optimiser's options cannot be copied.
        self.optimizer: OptimizerCallable = lambda parameters: optimizer(parameters)
        self.schedule = schedule
        self.spec = spec
        # A mean that left out what is no number would hide it.
        means = (MeanMetric(nan_strategy=torch.nan) for _ in range(3))
        self.train_loss, self.val_loss, self.test_loss = means
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
        # A batch is made float32 whatever the precision; the weights say which one is wanted.
        output: Tensor = self.network(x.to(next(self.network.parameters()).dtype))
        return output

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move everything, but let metrics count in float32 at the least.

        The sum over an epoch's losses in bfloat16 would stop growing after a few batches.
        """
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self.modules():
            if isinstance(module, Metric):
                module.set_dtype(torch.float32)
        return self

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The loss of one batch, to go backward from."""
        loss = self._evaluate("train", batch)
        # Lightning takes up what is logged at every step, and writes it down at these.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:
            self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Count one batch of val, and return its loss."""
        return self._evaluate("val", batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Count one batch of test."""
        self._evaluate("test", batch)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The network's answer to a person's own pictures."""
        output: Tensor = self(batch[0])
        return output

    def on_train_epoch_end(self) -> None:
        """Log the epoch's train metrics."""
        self.log_dict(self.compute("train"))

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's val metrics."""
        self.log_dict(self.compute("val"))

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self.log_dict(self.compute("test"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the schedule for the length of this run."""
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        optimizer, scheduler = self.optimizer_and_scheduler(steps, epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduler else optimizer

    def optimizer_and_scheduler(
        self, steps: float, epochs: int | None
    ) -> tuple[Optimizer, LRSchedulerConfigType | None]:
        """Make both for a run of so many optimiser steps and epochs, for whichever loop it is.

        Raises:
            UserError: a schedule where the length of the run is not known.
        """
        with told_as_mistake("model.optimizer"):
            optimizer = self.optimizer(self.network.parameters())
        if self.schedule is None:
            return optimizer, None
        if steps == float("inf") or epochs is None:
            raise UserError(
                "model.schedule needs to know how long the run is; set trainer.max_epochs"
            )
        with told_as_mistake("model.schedule"):
            return optimizer, self.schedule(optimizer, int(steps), epochs)

    def count(self, stage: str, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch to the metrics of `stage`: 'train', 'val' or 'test'."""
        mean_loss, metrics = self._metrics(stage)
        with torch.no_grad():
            mean_loss.update(loss.detach(), weight=len(target))
            # Some metrics flatten by a view, which channels side by side do not allow.
            metrics.update(output.detach().contiguous(), target.contiguous())

    def compute(self, stage: str) -> dict[str, Tensor]:
        """The metrics of `stage` that are one number, by name; and begin to count anew.

        Empty where no batch was counted, as in an epoch that is left before its first.
        """
        mean_loss, metrics = self._metrics(stage)
        if not mean_loss.update_called:
            return {}
        values = {f"{stage}/loss": mean_loss.compute()} | metrics.compute()
        mean_loss.reset()
        metrics.reset()
        self.last_metrics |= values
        return {name: value for name, value in values.items() if value.numel() == 1}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what predict must know of the data, and what was counted of an epoch so far.

        Raises:
            NotFiniteError: a weight that is not: what was saved before stays.
        """
        check_weights(checkpoint["state_dict"], checkpoint["global_step"])
        checkpoint["data_spec"] = self.spec._asdict()
        mean_loss, metrics = self._metrics("train")
        counted = {"loss": mean_loss, **dict(metrics.items())}
        checkpoint["counted"] = {
            name: {key: torch.clone(value) for key, value in metric.metric_state.items()}  # type: ignore[arg-type]
            for name, metric in counted.items()
            if metric.update_called
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting, unless the schedule was planned for another length of run."""
        self.check_length(checkpoint, self.trainer.estimated_stepping_batches)
        self.load_counted(checkpoint)

    def check_length(self, checkpoint: dict[str, Any], steps: float) -> None:
        """Make sure that the schedule in `checkpoint` was planned for a run of `steps` steps.

        Raises:
            UserError: it was planned for another number.
        """
        for scheduler in checkpoint["lr_schedulers"]:
            planned = scheduler.get("total_steps", steps)
            if planned != steps:
                raise UserError(
                    f"model.schedule was planned for {planned:,} steps, and this run has "
                    f"{steps:,}; pass the trainer.max_epochs and data.batch_size it started with"
                )

    def load_counted(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the train metrics had counted when `checkpoint` was saved."""
        mean_loss, metrics = self._metrics("train")
        counted = {"loss": mean_loss, **dict(metrics.items())}
        for name, states in checkpoint["counted"].items():
            metric = counted[name]
            metric._update_count = 1
            for key, value in states.items():
                setattr(metric, key, value.to(metric.device))

    def _evaluate(self, stage: str, batch: ImageBatch) -> Tensor:
        inputs, target = self.inputs_and_targets(batch)
        output = self(inputs)
        loss = self.loss(output, target)
        self.count(stage, output, target, loss)
        return loss

    def _metrics(self, stage: str) -> tuple[MeanMetric, MetricCollection]:
        return getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_metrics")
