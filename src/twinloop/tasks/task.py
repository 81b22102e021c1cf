"""The base of all tasks: one definition of an experiment, for both training loops."""

import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError, as_user_error
from twinloop.finite import check_weights
from twinloop.processes import gathered, rank, world_size
from twinloop.tasks.metrics import StageMetrics
from twinloop.tasks.optimizer import Parameters
from twinloop.tasks.rebuild import Rebuilt
from twinloop.tasks.schedule import AnySchedule, Schedule, TorchSchedule, check_plan

ImageBatch = tuple[Tensor, Tensor]
"""Images float32 `[B, C, H, W]` in [0, 1], and labels int64 `[B]` or another target of the data."""


class Task(Rebuilt):
    """A network with its loss, metrics, optimiser and schedule.

    A subclass defines the inputs and targets of the network (`inputs_and_targets`), the `loss`,
    and the metrics. Metrics are logged at the end of an epoch under `train/`, `val/` and `test/`;
    those that are not a single value (per class, confusion) are kept in `last_metrics`.
    """

    monitor: ClassVar[str]
    """The metric that selects the best checkpoint."""
    mode: ClassVar[str]
    """'min' or 'max': whether a low or a high value of `monitor` is better."""
    units: ClassVar[Mapping[str, str]] = {}
    """What the values of a metric are in, by its name."""
    needs_labels: ClassVar[bool] = False  # whether images without labels cannot be evaluated

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable,
        schedule: AnySchedule | None,
        spec: DataSpec,
        metrics: Mapping[str, Mapping[str, Metric]],
    ) -> None:
        super().__init__()
        # Convolutions are fastest with channels_last, on CPUs and GPUs.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # In a lambda, which a deep copy of the task (for weight averaging) shares: the command
        # line's optimiser factories cannot be copied.
        self.optimizer: OptimizerCallable = lambda parameters: optimizer(parameters)
        if schedule is not None and not isinstance(schedule, Schedule):
            schedule = TorchSchedule(schedule)
        self.schedule = schedule
        self.spec = spec
        self.train_metrics = StageMetrics("train", metrics["train"])
        self.val_metrics = StageMetrics("val", metrics["val"])
        self.test_metrics = StageMetrics("test", metrics["test"])
        self.last_metrics: dict[str, Tensor] = {}
        self.lr: float | None = None  # what a LearningRateFinder has found, in place of the rate
        self._plan: dict[str, float] = {}
        self._resumed_plan: dict[str, float] = {}

    @abstractmethod
    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """The network's input, and the target of its output."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar: the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """The output of the network for `x`, cast to the type of the weights."""
        output: Tensor = self.network(x.to(next(self.network.parameters()).dtype))
        return output

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        loss = self._step("train", batch)
        # Only at the steps that Lightning writes, because each call of `log` takes time.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:
            self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        return self._step("val", batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        self._step("test", batch)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        return self(batch[0])  # type: ignore[no-any-return]

    def _step(self, stage: str, batch: ImageBatch) -> Tensor:
        """The loss of a batch, which is added to the metrics of `stage`."""
        inputs, target = self.inputs_and_targets(batch)
        output = self(inputs)
        loss = self.loss(output, target)
        self.count(stage, output, target, loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.compute("train"))

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.compute("val"))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.compute("test"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        optimizer, scheduler = self.optimizer_and_scheduler(steps, epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduler else optimizer

    def optimizer_and_scheduler(
        self, steps: float, epochs: int | None
    ) -> tuple[Optimizer, LRSchedulerConfigType | None]:
        """Create both for a run of `steps` optimiser steps in `epochs` epochs, for either loop.

        Raises:
            UserError: see `Schedule.plan` and `check_plan`.
        """
        with as_user_error("model.optimizer"):
            optimizer = self.optimizer(Parameters(self.network))
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        if self.schedule is None:
            return optimizer, None
        self._plan = self.schedule.plan(steps, epochs)
        check_plan(self._plan, self._resumed_plan)
        with as_user_error("model.schedule"):
            return optimizer, self.schedule(optimizer, int(min(steps, sys.maxsize)), epochs or -1)

    @property
    def backbone(self) -> nn.Module:
        """What `BackboneFinetuning` freezes at first, for a subclass to override.

        By default the network's own `backbone` or `encoder`, or every layer with weights but the
        last.
        """
        for name in ("backbone", "encoder"):
            if isinstance(part := getattr(self.network, name, None), nn.Module):
                return part
        layers = [layer for layer in self.network.modules() if layer._parameters]
        return nn.ModuleList(layers[:-1])

    def metric_names(self, stage: str) -> list[str]:
        """The names of the metrics of `stage` that are logged."""
        return self._metrics(stage).scalars()

    @property
    def modes(self) -> dict[str, str]:
        """'min' or 'max' of each metric that is logged, if it is known which value is better."""
        found = {"loss": "min", self.monitor.partition("/")[2]: self.mode}
        for name, metric in self.val_metrics.metrics.items():
            if (higher := metric.higher_is_better) is not None:
                found.setdefault(name.partition("/")[2], "max" if higher else "min")
        return {name: found[name] for name in found if f"val/{name}" in self.metric_names("val")}

    def count(self, stage: str, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch to the metrics of `stage`: 'train', 'val' or 'test'."""
        self._metrics(stage).count(output, target, loss)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Compute and reset the metrics of `stage`; return those that are a single value."""
        values = self._metrics(stage).compute()
        self.last_metrics |= values
        return {name: value for name, value in values.items() if value.numel() == 1}

    def _metrics(self, stage: str) -> StageMetrics:
        metrics: StageMetrics = getattr(self, f"{stage}_metrics")
        return metrics

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the facts of the data, the plan of the schedule, and the metrics counted so far.

        Raises:
            NotFiniteError: a weight is not finite; the previous checkpoint stays.
        """
        check_weights(checkpoint["state_dict"], checkpoint["global_step"])
        checkpoint["data_spec"] = self.spec._asdict()
        checkpoint["plan"] = self._plan
        checkpoint["counted"] = gathered(self.train_metrics.states())  # of its batches each
        _keep_plain_values(checkpoint, self.CHECKPOINT_HYPER_PARAMS_KEY)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue counting, if a fit is resumed.

        Raises:
            UserError: see `check_plan`; also another number of processes inside an epoch.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._resumed_plan = checkpoint.get("plan", {})
        check_plan(self._plan, self._resumed_plan)
        counted = checkpoint["counted"]
        if any(counted):
            _check_processes(len(counted))
            self.train_metrics.load_states(counted[rank()])


def _check_processes(saved: int) -> None:
    if saved != world_size():
        raise UserError(
            f"the checkpoint was saved inside an epoch by {saved} processes, and this run has "
            f"{world_size()}; resume with {saved}, or from a checkpoint of the end of an epoch"
        )


def _keep_plain_values(checkpoint: dict[str, Any], key: str) -> None:
    """Drop hyperparameters that cannot be read from a checkpoint without running code."""
    values = checkpoint.pop(key, {})
    if plain := {name: value for name, value in values.items() if _is_plain(value)}:
        checkpoint[key] = plain


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(map(_is_plain, (*value.keys(), *value.values())))
    if type(value) in (list, tuple):  # not a named tuple, whose class would be imported
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
