"""What every task shares: one definition of an experiment, for whichever loop runs it."""

import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error
from twinloop.finite import check_weights
from twinloop.processes import gathered, rank, world_size
from twinloop.tasks.schedule import Schedule

ImageBatch = tuple[Tensor, Tensor]
"""Images float32 `[B, C, H, W]` in [0, 1] and labels int64 `[B]`."""


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
    needs_labels: ClassVar[bool] = False
    """Whether there is nothing to measure on images without labels."""

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
        self._plan: dict[str, float | None] = {}
        self._resumed_plan: dict[str, float | None] | None = None

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
        """The network's answer to a user's own images."""
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
        with as_user_error("model.optimizer"):
            optimizer = self.optimizer(self.network.parameters())
        if self.schedule is None:
            return optimizer, None
        length = {"steps": None if steps == float("inf") else steps, "epochs": epochs}
        self._plan = {name: length[name] for name in self.schedule.needs}
        if {None, -1} & set(self._plan.values()):
            raise UserError(
                "model.schedule needs to know how long the run is; set trainer.max_epochs"
            )
        self._check_plan()
        with as_user_error("model.schedule"):
            steps = int(min(steps, sys.maxsize))
            return optimizer, self.schedule(optimizer, steps, epochs or -1)

    def _check_plan(self) -> None:
        """Make sure that a resumed run has the length that its schedule was planned for.

        Raises:
            UserError: it has another.
        """
        for name, now in self._plan.items() if self._resumed_plan else ():
            then = self._resumed_plan.get(name, now) if self._resumed_plan else now
            if then != now:
                raise UserError(
                    f"model.schedule was planned for {then:,} {name}, and this run has {now:,}; "
                    "pass the trainer.max_epochs, trainer.max_steps and data.batch_size it started "
                    "with, or begin a new run with --weights"
                )

    def metric_names(self, stage: str) -> list[str]:
        """The metrics of `stage` that are one number: those that are logged."""
        _, metrics = self._metrics(stage)
        single = [
            name
            for name, metric in metrics.items()
            if getattr(metric, "average", "micro") is not None
            and "ConfusionMatrix" not in type(metric).__name__
        ]
        return [f"{stage}/loss", *single]

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

        Hyperparameters that `save_hyperparameters` has kept stay in the checkpoint where they are
        plain values: nothing else can be read without running code.

        Raises:
            NotFiniteError: a weight that is not: what was saved before stays.
        """
        check_weights(checkpoint["state_dict"], checkpoint["global_step"])
        checkpoint["data_spec"] = self.spec._asdict()
        checkpoint["plan"] = self._plan
        kept = checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if plain := {name: value for name, value in kept.items() if _is_plain(value)}:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = plain
        counted = {
            name: {key: torch.clone(value) for key, value in metric.metric_state.items()}  # type: ignore[arg-type]
            for name, metric in self._counting().items()
            if metric.update_called
        }
        # Each process has counted its own part of every batch.
        checkpoint["counted"] = gathered(counted)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue counting in a fit, unless the schedule was planned for another length of run.

        Raises:
            UserError: another length, or another number of processes inside an epoch.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._resumed_plan = checkpoint.get("plan", {})
        self._check_plan()
        parts = checkpoint["counted"]
        if len(parts) != world_size() and any(parts):
            raise UserError(
                f"the checkpoint was saved inside an epoch of {len(parts)} processes, and "
                f"{world_size()} run; resume with as many, or from a checkpoint of an epoch's end"
            )
        counting = self._counting()
        for name, states in (parts[rank()] if any(parts) else {}).items():
            metric = counting[name]
            metric._update_count = 1
            for key, value in states.items():
                setattr(metric, key, value.to(metric.device))

    def _counting(self) -> dict[str, Metric]:
        """The metrics of train, which an epoch that is stopped and resumed continues."""
        mean_loss, metrics = self._metrics("train")
        return {"loss": mean_loss, **dict(metrics.items())}

    def _evaluate(self, stage: str, batch: ImageBatch) -> Tensor:
        inputs, target = self.inputs_and_targets(batch)
        output = self(inputs)
        loss = self.loss(output, target)
        self.count(stage, output, target, loss)
        return loss

    def _metrics(self, stage: str) -> tuple[MeanMetric, MetricCollection]:
        return getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_metrics")


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint that holds `value` can be read without running code."""
    if type(value) is dict:
        return all(map(_is_plain, (*value.keys(), *value.values())))
    if type(value) in (list, tuple):  # a named tuple is a class that would be imported
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
