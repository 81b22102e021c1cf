"""What loggers get of a fit, and the curves that TensorBoard reads."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.tensorboard.writer import SummaryWriter

from tests.learner.learners import Raises
from twinloop.learner import Callback, DataLoaders, TrainLearner
from twinloop.learner.callbacks import (
    AccumulateCB,
    BatchSchedCB,
    LoggerCB,
    MetricsCB,
    TensorBoardCB,
    ValidateCB,
)

Curve = list[tuple[int, float]]
TRAIN = [(torch.ones(1, 1), torch.full((1, 1), float(target))) for target in (1, 2, 3, 4)]
VALID = [(torch.ones(1, 1), torch.full((1, 1), 5.0))]


def halve(opt: torch.optim.Optimizer) -> StepLR:
    return StepLR(opt, step_size=1, gamma=0.5)


def curves(
    folder: Path,
    every: int,
    *cbs: Callback,
    n_epochs: int = 2,
    valid: bool = True,
    opt_func: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> dict[str, Curve]:
    """Every curve of a fit whose weight stays 0, so that a loss is a target squared."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    with SummaryWriter(str(folder)) as writer:
        board = TensorBoardCB(writer, every)
        learn = TrainLearner(
            model,
            DataLoaders(TRAIN, VALID),
            nn.functional.mse_loss,
            0.5,
            [board, MetricsCB(), *cbs],
            opt_func,
        )
        learn.fit(n_epochs, valid=valid)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_tag_and_step(tmp_path: Path) -> None:
    found = curves(tmp_path, 2, BatchSchedCB(halve))
    # A curve has a point at every second step, counted from 0.
    assert found.pop("lr-SGD") == [(1, 0.25), (3, 0.0625), (5, 0.5**6), (7, 0.5**8)]
    assert found.pop("train/loss_step") == [(1, 4.0), (3, 16.0), (5, 4.0), (7, 16.0)]
    # Metrics are written at the last step of their epoch.
    assert found.pop("train/loss") == [(3, 7.5), (7, 7.5)]
    assert found.pop("val/loss") == [(3, 25.0), (7, 25.0)]
    epochs = found.pop("epoch")
    assert sorted(set(epochs)) == [(1, 0), (3, 0), (5, 1), (7, 1)]
    assert found == {}


@pytest.mark.parametrize(("every", "steps"), [(3, [2, 5]), (0, [])])
def test_steps_between_two_points(every: int, steps: list[int], tmp_path: Path) -> None:
    found = curves(tmp_path, every)
    for tag in ("train/loss_step", "lr-SGD"):
        assert [step for step, _ in found.get(tag, [])] == steps
    assert [step for step, _ in found["train/loss"]] == [3, 7]


def test_a_step_shows_the_undivided_loss_of_the_batch_it_came_in(tmp_path: Path) -> None:
    found = curves(tmp_path, 1, AccumulateCB(2), n_epochs=1)
    assert found["train/loss_step"] == [(0, 4.0), (1, 16.0)]
    assert found["val/loss"] == [(1, 25.0)]


def test_validation_inside_an_epoch_is_at_its_step(tmp_path: Path) -> None:
    found = curves(tmp_path, 1, ValidateCB(every_n_batches=2), n_epochs=1, valid=False)
    assert found["val/loss"] == [(1, 25.0), (3, 25.0)]
    assert found["train/loss_step"] == [(0, 1.0), (1, 4.0), (2, 9.0), (3, 16.0)]


def test_each_group_of_parameters_has_its_rate(tmp_path: Path) -> None:
    def two_groups(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": list(parameters)},
            {"params": [torch.zeros(1)], "lr": 0.25},
        ]
        return torch.optim.AdamW(groups, lr=lr)

    found = curves(tmp_path, 4, n_epochs=1, opt_func=two_groups)
    assert found["lr-AdamW/pg1"] == [(3, 0.5)]
    assert found["lr-AdamW/pg2"] == [(3, 0.25)]


def test_what_was_written_is_there_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="here"):
        curves(tmp_path, 1, Raises("after_batch", ValueError("here"), lambda learn: learn.num == 2))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("train/loss_step")) >= 2


def test_a_path_is_no_writer() -> None:
    folder: Any = "runs"
    with pytest.raises(TypeError, match=r"writer is 'runs'; it must be a SummaryWriter\(folder\)"):
        TensorBoardCB(folder)


class Log:
    """Keeps what it is given, like the simplest logger."""

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.saved = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))

    def save(self) -> None:
        self.saved = len(self.logged)


def test_every_logger_gets_the_same_values_at_the_same_steps() -> None:
    one, other = Log(), Log()
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    dls = DataLoaders(TRAIN, VALID)
    cbs = [LoggerCB([one, other], every=4), MetricsCB()]
    TrainLearner(model, dls, nn.functional.mse_loss, 0.5, cbs).fit(1)
    expected = [
        {"lr-SGD": 0.5},
        {"train/loss_step": 16.0, "epoch": 0},
        {"train/loss": 7.5, "epoch": 0},
        {"val/loss": 25.0, "epoch": 0},
    ]
    assert one.logged == other.logged == [(3, metrics) for metrics in expected]
    assert one.saved == 4
