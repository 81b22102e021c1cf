"""Checks that losses and weights are finite; if not, the run ends, and the error names the origin.

Both loops check the loss before the optimiser's step, so that it never reaches a weight, and the
weights before a checkpoint is written, because a finite loss can have a gradient that is not.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from twinloop.errors import UserError

SHOWN = 8
"""The largest number of rows that the message lists."""
ADVICE = (
    "checkpoints are unaffected; start again with a lower learning rate, or see the operation with "
    "trainer.detect_anomaly (in Python: AnomalyCB)"
)


class NotFiniteError(UserError):
    """A loss or a weight is NaN or infinite; a note lists all rows of the batch."""


class LossCheck:
    """A check whether the loss of a batch is finite in all processes that train together.

    The result is copied from a GPU asynchronously, so that reading it one batch later does not
    stall the GPU.
    """

    def __init__(self, loss: Tensor) -> None:
        self.loss = loss.detach()
        result = self.loss
        if distributed.is_available() and distributed.is_initialized():
            result = 0 * result.float()  # 0, or NaN if it is not finite, and so is the sum
            distributed.all_reduce(result)
        self._result = result.to("cpu", non_blocking=True)
        self._copied = torch.cuda.current_stream().record_event() if result.is_cuda else None

    def passed(self) -> bool:
        """Wait for the result: whether the loss is finite in all processes."""
        if self._copied is not None:
            self._copied.synchronize()
        return math.isfinite(self._result)

    def error(self, where: str, rows: Tensor | None, find: Callable[[], str]) -> NotFiniteError:
        """The error of a failed check, the same in all processes.

        Args:
            where: Epoch, batch and step, by `place`.
            rows: The batch's rows of the train split, `[B]`, if they are known.
            find: Calls `first_not_finite`, in a process whose own loss is not finite.
        """
        message: tuple[str, str] | None = None
        if not math.isfinite(self.loss):
            listed = [] if rows is None else rows.tolist()
            message = _message(float(self.loss), where, listed, find()), f"rows: {listed}"
        if distributed.is_available() and distributed.is_initialized():
            messages: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(messages, message)
            message = next(found for found in messages if found is not None)
        assert message is not None
        error = NotFiniteError(message[0])
        error.add_note(message[1])
        return error


def place(stage: str, epoch: int, batch: int, steps: int) -> str:
    """Describe a position in a run: `epoch` and `batch` from 0, after `steps` optimiser steps."""
    step = f"step {steps + 1}" if stage == "train" else f"after step {steps}"
    return f"epoch {epoch + 1}, batch {batch + 1} of {stage} ({step})"


def random_state() -> list[Tensor]:
    """The state of the CPU's random generator, and of the GPU's if one is in use."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *gpu]


def first_not_finite(model: nn.Module, forward: Callable[[], Tensor], random: list[Tensor]) -> str:
    """Name the first module of `model` that is not finite, by computing the batch once more.

    Args:
        model: The module whose submodules are observed.
        forward: Computes the loss of the batch.
        random: The `random_state` before the batch. The present state is restored afterwards.
    """
    found: list[str] = []

    def observe(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if found:
            return
        label = f"{name or 'the model'} ({type(module).__name__})"
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        broken = [key for key, value in own if not value.isfinite().all()]
        if broken and not _is_finite(output):
            found.append(f"{broken[0]} of {label}")
        elif not _is_finite(inputs):
            found.append(f"the input of {label}")
        elif not _is_finite(output):
            found.append(f"the output of {label}")

    handles = [
        module.register_forward_hook(partial(observe, name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad(), _restored_random(random):
            loss = forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    if not _is_finite(loss):
        return "the output of the loss function"
    return "unknown, as it was finite when the batch was computed once more"


def check_weights(state: Mapping[str, Tensor], steps: int) -> None:
    """Check that all weights and buffers are finite after `steps` optimiser steps.

    Raises:
        NotFiniteError: names the first that is not.
    """
    for name, value in state.items():
        if not value.isfinite().all():
            raise NotFiniteError(f"{name} is not finite after step {steps}; {ADVICE}")


@contextmanager
def _restored_random(random: list[Tensor]) -> Iterator[None]:
    cpu, *gpus = random
    with torch.random.fork_rng([torch.cuda.current_device()] if gpus else []):
        torch.set_rng_state(cpu)
        for gpu in gpus:
            torch.cuda.set_rng_state(gpu)
        yield


def _message(loss: float, where: str, rows: list[int], origin: str) -> str:
    listed = ", ".join(map(str, rows[:SHOWN]))
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    batch = f"; rows {listed}{more} of the train split" if rows else ""
    return f"the loss is {loss} in {where}{batch}; first not finite: {origin}; {ADVICE}"


def _is_finite(value: Any) -> bool:
    """Whether every tensor in `value` is finite; other parts are ignored."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
