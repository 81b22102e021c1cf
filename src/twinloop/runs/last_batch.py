"""Refuse a batch size that leaves a last batch of one image, if the network cannot train on one."""

import copy
import math
from itertools import chain

import torch
from torch import Tensor

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError, escape_unprintable
from twinloop.learner.callbacks.limits import limited
from twinloop.tasks import Task


def check_last_batch(
    task: Task,
    data: ImageDataModule,
    *,
    limit: int | float | None = None,
    max_batches: float = math.inf,
    processes: int = 1,
) -> None:
    """Try a last batch of one image before the first step.

    A batch norm, for example, has no variance of a single value per channel. The task and torch's
    generators are not changed. `limit` is Lightning's `limit_train_batches`, `max_batches` limits
    the whole run, and `processes` share the images.

    Raises:
        UserError: an epoch ends with one image, and the network fails on one but not on two.
    """
    images = math.ceil(len(data.rows["train"]) / processes)
    batches = math.ceil(images / data.batch_size)
    reached = min(limited(batches, 1.0 if limit is None else limit), max_batches)
    last = images - (batches - 1) * data.batch_size
    if data.batch_size > 1 and (last != 1 or reached < batches):
        return
    error = _error(task, data, 1)
    if error is None or _error(task, data, 2) is not None:
        return  # not because of the size of the batch
    reason = escape_unprintable(f"{type(error).__name__}: {error}".splitlines()[0])
    which = f"the last batch of an epoch, number {batches:,}," if data.batch_size > 1 else "a batch"
    raise UserError(
        f"data.batch_size is {data.batch_size}: {which} has 1 image, and the network cannot train "
        f"on one ({reason}); "
        f"{_advice(images, data.batch_size)}"
    ) from error


def _error(task: Task, data: ImageDataModule, count: int) -> Exception | None:
    """The error of a forward in training on the first `count` images of train, if any."""
    trained = task.network
    weight = next(task.parameters())
    cuda = [weight.device] if weight.device.type == "cuda" else []
    rows = data.rows["train"][:1].expand(count)
    split = data.data.train
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            images, labels = data.on_after_batch_transfer(
                (split.images[rows], split.labels[rows], None), 0
            )
            # A copy, since a forward in training changes statistics, counters, caches.
            task.network = copy.deepcopy(trained).train()
            batch: tuple[Tensor, Tensor] = images.to(weight.device), labels.to(weight.device)
            inputs, target = task.inputs_and_targets(batch)
            # `task(inputs)` may be compiled.
            task.loss(task.forward(inputs), target)
    except Exception as error:  # of any type, from the network
        return error
    finally:
        task.network = trained
    return None


def _advice(images: int, batch_size: int) -> str:
    """The nearest batch size that leaves no batch of one image."""
    if images == 1:
        return "train on more images"
    sizes = chain(range(batch_size - 1, 1, -1), range(max(2, batch_size + 1), images + 1))
    return f"set data.batch_size to {next(size for size in sizes if images % size != 1)}"
