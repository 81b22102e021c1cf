"""The device of the model and its batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class DeviceCB(Callback):
    """Moves the model, and then every batch, to a device; Lightning: `accelerator`, `devices`.

    Args:
        device: The machine's accelerator if unset, or its CPU where it has none.
    """

    order = Order.DEVICE

    def __init__(self, device: str | torch.device | None = None) -> None:
        found = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.device = torch.device(found)

    def before_fit(self, learn: Learner) -> None:
        """Move the model in place, so that the optimiser keeps its parameters."""
        learn.model.to(self.device)

    def before_batch(self, learn: Learner) -> None:
        learn.batch = to_device(learn.batch, self.device)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a tuple, list or dict to `device`, asynchronously from pinned memory."""
    return changed(batch, lambda part: part.to(device, non_blocking=True))


def changed(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every tensor of a tuple, list or dict."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: changed(value, change) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [changed(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
