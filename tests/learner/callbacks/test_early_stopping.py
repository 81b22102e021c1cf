"""When a metric has not become better for long enough."""

from math import inf, nan

import pytest
import torch
from torch import nn

from twinloop.learner import Callback, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import EarlyStoppingCB, MetricsCB


class Numbers(MetricsCB):
    """Has one number after another for metrics, in train and in valid."""

    def __init__(self, **numbers: list[float]) -> None:
        super().__init__()
        self.numbers = numbers

    def after_epoch(self, learn: Learner) -> None:
        """The epoch's number."""
        for name, numbers in self.numbers.items():
            if name.startswith(learn.stage):
                learn.metrics[name.replace("_", "/", 1)] = torch.tensor(numbers[learn.epoch])


def epochs(stop: EarlyStoppingCB, **numbers: list[float]) -> int:
    """After how many epochs a fit ends that would have as many as there are numbers."""
    batch = (torch.ones(1, 1), torch.ones(1, 1))
    dls = DataLoaders([batch], [batch])
    cbs: list[Callback] = [stop, Numbers(**numbers)]
    learn = TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)
    learn.fit(len(next(iter(numbers.values()))))
    return learn.epoch


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "expected"),
    [
        ([5, 4, 3, 2, 1], 1, 0, 5),
        ([5, 4, 4, 3, 3], 1, 0, 3),  # as good is no better
        ([5, 6, 4, 6, 5, 4, 3], 3, 0, 6),
        ([5, 6, 4, 6, 5, 3, 3], 3, 0, 7),
        ([5, 4.5, 4.25, 4, 3], 1, 0.5, 2),  # better by min_delta exactly is not enough
        ([5, 4.25, 3.5, 3.25, 1], 1, 0.5, 4),
        ([5, 4.75, 4.375, 4, 3], 2, 0.5, 5),  # compared with the best, not with the last
        ([1, 1, 1, 1], 3, 0, 4),
        ([5, nan, 4, 3], 3, 0, 2),
        ([inf, 4, 3], 3, 0, 1),
        ([5, -inf, 3], 3, 0, 2),
    ],
)
def test_patience_and_min_delta(
    losses: list[float], patience: int, min_delta: float, expected: int
) -> None:
    def stop(mode: str) -> EarlyStoppingCB:
        return EarlyStoppingCB("val/loss", mode, patience=patience, min_delta=min_delta)

    assert epochs(stop("min"), val_loss=losses) == expected
    assert epochs(stop("max"), val_loss=[-loss for loss in losses]) == expected


def test_a_train_metric_is_looked_at_after_train() -> None:
    stop = EarlyStoppingCB("train/accuracy", "max", patience=1)
    assert epochs(stop, train_accuracy=[1, 2, 2, 3], val_accuracy=[4, 3, 2, 1]) == 3
    assert stop.stopped_epoch == 2


def test_it_goes_on_waiting_after_a_resume() -> None:
    first = EarlyStoppingCB(patience=3)
    assert epochs(first, val_loss=[2, 3, 3]) == 3
    assert first.state_dict() == {
        "wait_count": 2,
        "stopped_epoch": 0,
        "best_score": torch.tensor(2.0),
        "patience": 3,
    }
    second = EarlyStoppingCB()
    second.load_state_dict(first.state_dict())
    assert epochs(second, val_loss=[2.5, 1, 1, 1]) == 1


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        ("val/loss", "less", "mode is 'less'; it must be 'min' or 'max'"),
        ("loss", "min", "monitor is 'loss'; it must begin with 'train/' or 'val/'"),
    ],
)
def test_what_would_never_stop_is_refused(monitor: str, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStoppingCB(monitor, mode)


def test_a_metric_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="val/acuracy"):
        epochs(EarlyStoppingCB("val/acuracy"), val_loss=[1])
