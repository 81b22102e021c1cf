"""Losses and weights that are not finite: the run ends, and the error says where it began.

Both loops check the loss before the optimiser's step, so that it never reaches a weight, and the
weights before a checkpoint is written, since a finite loss can have a gradient that is not finite.
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
"""The most rows of a batch that the message names."""
ADVICE = (
    "nothing of it was saved; start again with a lower learning rate (--model.optimizer.lr), or "
    "see the operation with --trainer.detect_anomaly true"
)


class NotFiniteError(UserError):
    """A loss or a weight is NaN or infinite; a note names all rows of the batch."""


class LossCheck:
    """A check whether the loss of a batch is finite in all processes that train together.

    The result is copied from a GPU asynchronously, so that reading it one batch later does not
    stall the GPU.
    """

    def __init__(self, loss: Tensor) -> None:
        self.loss = loss.detach()
        answer = self.loss
        if distributed.is_available() and distributed.is_initialized():
            answer = 0 * answer.float()  # NaN where it is not finite, and then the sum is NaN too
            distributed.all_reduce(answer)
        self._answer = answer.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.current_stream().record_event() if answer.is_cuda else None

    def passed(self) -> bool:
        """Wait for the result: whether the loss is finite in all processes."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return math.isfinite(self._answer)

    def error(self, where: str, rows: Tensor | None, find: Callable[[], str]) -> NotFiniteError:
        """The error of a check that has failed, the same in all processes.

        Args:
            where: Epoch, batch and step, by `place`.
            rows: The batch's rows of the train split, `[B]`, if they are known.
            find: Calls `first_not_finite`, in a process whose own loss is not finite.
        """
        told: tuple[str, str] | None = None
        if not math.isfinite(self.loss):
            numbers = [] if rows is None else rows.tolist()
            told = _line(float(self.loss), where, numbers, find()), f"rows: {numbers}"
        if distributed.is_available() and distributed.is_initialized():
            everyone: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(everyone, told)
            told = next(line for line in everyone if line is not None)
        assert told is not None
        error = NotFiniteError(told[0])
        error.add_note(told[1])
        return error


def place(stage: str, epoch: int, batch: int, steps: int) -> str:
    """The position of a run in words; `epoch` and `batch` are counted from 0, `steps` are done."""
    step = f"step {steps + 1}" if stage == "train" else f"after step {steps}"
    return f"epoch {epoch + 1}, batch {batch + 1} of {stage} ({step})"


def random_state() -> list[Tensor]:
    """The states of the CPU's generator, and of the GPU's where one is in use."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *gpu]


def first_not_finite(model: nn.Module, forward: Callable[[], Tensor], random: list[Tensor]) -> str:
    """Name the first module of `model` that is not finite, by computing the batch once more.

    Args:
        model: The module whose submodules are watched.
        forward: Computes the loss of the batch.
        random: The `random_state` before the batch. The present state is restored afterwards.
    """
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if found:
            return
        called = f"{name or 'the model'} ({type(module).__name__})"
        broken = [key for key, value in _own(module) if not value.isfinite().all()]
        if broken and not _is_finite(output):
            found.append(f"{broken[0]} of {called}")
        elif not _is_finite(inputs):
            found.append(f"what goes into {called}")
        elif not _is_finite(output):
            found.append(f"what comes out of {called}")

    handles = [
        module.register_forward_hook(partial(look, name)) for name, module in model.named_modules()
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
        return "what comes out of the loss function"
    return "unknown, as it was finite when the batch was computed once more"


def check_weights(state: Mapping[str, Tensor], steps: int) -> None:
    """Make sure that all weights and buffers after so many steps are finite.

    Raises:
        NotFiniteError: names the first that is not.
    """
    for name, value in state.items():
        if not value.isfinite().all():
            raise NotFiniteError(f"{name} is not finite after step {steps}: {ADVICE}")


@contextmanager
def _restored_random(random: list[Tensor]) -> Iterator[None]:
    cpu, *gpus = random
    with torch.random.fork_rng([torch.cuda.current_device()] if gpus else []):
        torch.set_rng_state(cpu)
        for gpu in gpus:
            torch.cuda.set_rng_state(gpu)
        yield


def _line(loss: float, where: str, rows: list[int], origin: str) -> str:
    named = ", ".join(map(str, rows[:SHOWN]))
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    batch = f"; rows {named}{more} of the train split" if rows else ""
    return f"the loss is {loss} in {where}{batch}; first not finite: {origin}; {ADVICE}"


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _is_finite(value: Any) -> bool:
    """Whether every tensor in `value` is finite; other parts are ignored."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
