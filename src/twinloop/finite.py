"""A loss or a weight that is not finite: a run ends, and one line says where that began.

Both loops ask after each backward and before the optimiser's step, so that no weight is made of
such a loss; and again before a checkpoint is written, since a finite loss can have a gradient that
is not.
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
"""How many rows of a batch the line names."""
ADVICE = (
    "nothing of it was saved; start again with a lower learning rate (--model.optimizer.lr), or "
    "see the operation with --trainer.detect_anomaly true"
)


class NotFiniteError(UserError):
    """A loss or a weight is NaN or infinite; all rows of the batch are in a note."""


class LossCheck:
    """Whether the loss of a batch is finite, in this process and in all that train together.

    The answer of a GPU is on its way while the GPU does what comes next, so asking for it later
    does not stop the GPU.
    """

    def __init__(self, loss: Tensor) -> None:
        self.loss = loss.detach()
        answer = self.loss
        if distributed.is_available() and distributed.is_initialized():
            answer = 0 * answer.float()  # NaN where it was not finite, and so is the sum
            distributed.all_reduce(answer)
        self._answer = answer.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.current_stream().record_event() if answer.is_cuda else None

    def passed(self) -> bool:
        """Whether it is finite in all processes."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return math.isfinite(self._answer)

    def error(self, where: str, rows: Tensor | None, find: Callable[[], str]) -> NotFiniteError:
        """The line for a check that has not passed, the same in all processes.

        Args:
            where: Epoch, batch and step, by `place`.
            rows: The rows of the train split that the batch has, `[B]`, if they are known.
            find: What `first_not_finite` says; called where this process's loss is not finite.
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
    """Where a run is in words: all three are counted from 0, and `steps` were done."""
    step = f"step {steps + 1}" if stage == "train" else f"after step {steps}"
    return f"epoch {epoch + 1}, batch {batch + 1} of {stage} ({step})"


def random_state() -> list[Tensor]:
    """The generator of the CPU, and that of the GPU where one is in use."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *gpu]


def first_not_finite(model: nn.Module, forward: Callable[[], Tensor], random: list[Tensor]) -> str:
    """Say in which module of `model` a loss went wrong first, by computing it once more.

    `forward` gives the loss of the batch, `random` the generators as they were before it; they are
    afterwards as they are now.
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
        with torch.no_grad(), _drawing_from(random):
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
    """Make sure that the weights and buffers of a checkpoint after so many steps are finite.

    Raises:
        NotFiniteError: the first that is not.
    """
    for name, value in state.items():
        if not value.isfinite().all():
            raise NotFiniteError(f"{name} is not finite after step {steps}: {ADVICE}")


@contextmanager
def _drawing_from(random: list[Tensor]) -> Iterator[None]:
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
    """Whether every tensor in `value` is; parts that are no tensors do not count."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
