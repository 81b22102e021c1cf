"""The metrics of one stage, counted batch by batch."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection


class StageMetrics(nn.Module):
    """The mean loss and the metrics of one stage, named `<stage>/<metric>`.

    Args:
        stage: 'train', 'val' or 'test'.
        metrics: Metrics by name; they are copied.
    """

    def __init__(self, stage: str, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.stage = stage
        self.loss = MeanMetric(nan_strategy=torch.nan)  # the default would leave NaN out
        copies: dict[str, Any] = {name: metric.clone() for name, metric in metrics.items()}
        self.metrics = MetricCollection(copies, prefix=f"{stage}/", compute_groups=False)

    def scalars(self) -> list[str]:
        """The names of the metrics that are a single value, which are logged."""
        names = [
            name
            for name, metric in self.metrics.items()
            if getattr(metric, "average", "micro") is not None
            and "ConfusionMatrix" not in type(metric).__name__
        ]
        return [f"{self.stage}/loss", *names]

    def count(self, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch."""
        with torch.no_grad():
            self.loss.update(loss.detach(), weight=len(target))
            # Contiguous, because some metrics flatten by a view, which channels_last forbids.
            self.metrics.update(output.detach().contiguous(), target.contiguous())

    def compute(self) -> dict[str, Tensor]:
        """Compute all metrics and reset them; empty if no batch was counted."""
        if not self.loss.update_called:
            return {}
        values = {f"{self.stage}/loss": self.loss.compute()} | self.metrics.compute()
        self.loss.reset()
        self.metrics.reset()
        return values

    def states(self) -> dict[str, dict[str, Tensor]]:
        """The states of the metrics that have counted a batch, for a checkpoint."""
        return {
            name: {key: torch.clone(value) for key, value in metric.metric_state.items()}  # type: ignore[arg-type]
            for name, metric in self._all().items()
            if metric.update_called
        }

    def load_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue counting from the states of a checkpoint."""
        for name, state in states.items():
            metric = self._all()[name]
            metric._update_count = 1
            for key, value in state.items():
                setattr(metric, key, value.to(metric.device))

    def _all(self) -> dict[str, Metric]:
        return {"loss": self.loss, **dict(self.metrics.items())}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the metrics, but keep their states in float32.

        In bfloat16, the sum of an epoch's losses would stop growing after a few batches.
        """
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for metric in self._all().values():
            metric.set_dtype(torch.float32)
        return self
