"""Small learners and callbacks that the tests of several callbacks share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from twinloop.learner import Callback, DataLoaders, Learner, Order, TrainLearner
from twinloop.learner.callbacks import MetricsCB

Batch = tuple[Tensor, Tensor]
ONES: Batch = (torch.ones(1, 1), torch.ones(1, 1))


def scalar(*cbs: Callback, train: int = 3, valid: int = 1, lr: float = 0.1) -> TrainLearner:
    """A weight and a bias, and so many batches of one row, all of ones."""
    dls = DataLoaders([ONES] * train, [ONES] * valid)
    return TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr, cbs)


def classes(*sizes: int, seed: int = 0) -> list[Batch]:
    """Batches of these sizes: rows of four random values, and one of three classes."""
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))
        for size in sizes
    ]


def weights(learn: Learner) -> list[Tensor]:
    return [weight.detach().clone() for weight in learn.model.parameters()]


def assert_equal(one: Any, other: Any, path: str = "") -> None:
    """The same types and keys everywhere, and the same bits in every tensor."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{path}/{number}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


class Raises(Callback):
    """Raises `error` at an event, where `when` holds."""

    def __init__(
        self,
        event: str,
        error: BaseException,
        when: Callable[[Learner], bool] = lambda _: True,
        order: int = Order.DEFAULT,
    ) -> None:
        self.error, self.when, self.order = error, when, order
        setattr(self, event, self._raise)

    def _raise(self, learn: Learner) -> None:
        if self.when(learn):
            raise self.error


class Values(MetricsCB):
    """Metrics of given values, one after another: `val_loss=[2.0, 1.0]` is 'val/loss'."""

    def __init__(self, **values: list[float]) -> None:
        super().__init__()
        self.values = {name.replace("_", "/", 1): numbers for name, numbers in values.items()}

    def after_epoch(self, learn: Learner) -> None:
        for name, numbers in self.values.items():
            if name.startswith(learn.stage):
                learn.metrics[name] = torch.tensor(numbers[learn.epoch])
