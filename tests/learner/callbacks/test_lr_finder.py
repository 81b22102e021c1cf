"""A search for a rate, by hand; and nothing is left of it."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.learner import Callback, DataLoaders, Learner, MomentumLearner, TrainLearner
from twinloop.learner.callbacks import (
    AccumulateCB,
    AverageCB,
    BatchSchedCB,
    CheckpointCB,
    EarlyStoppingCB,
    LRFinderCB,
    MetricsCB,
    ProgressCB,
    TensorBoardCB,
    ValidateCB,
    lr_find,
)

BATCH = (torch.ones(1, 1), torch.zeros(1, 1))


class Losses(Callback):
    """Has one number after another for losses, and writes down the rates of the steps."""

    def __init__(self, *losses: float) -> None:
        self.losses = losses
        self.rates: list[float] = []

    def after_loss(self, learn: Learner) -> None:
        """The loss of this batch."""
        number = self.losses[min(len(self.rates), len(self.losses) - 1)]
        learn.loss = learn.loss * 0 + number

    def before_step(self, learn: Learner) -> None:
        """The rate of this step."""
        self.rates.append(learn.opt.param_groups[0]["lr"])


def scalar(*cbs: Callback, n: int = 10) -> Learner:
    dls = DataLoaders([BATCH] * n, [BATCH])
    return TrainLearner(nn.Linear(1, 1), dls, nn.functional.mse_loss, 0.5, cbs)


@pytest.mark.parametrize(
    ("losses", "seen", "suggestion"),
    [
        ([8, 7, 4, 3, 13], 5, 2.0),  # 13 is more than 4 times 3; from 7 to 4 it fell most
        ([8, 7, 4, 3, 12, 13], 6, 2.0),  # 12 is not more
        ([1, 5], 2, 1.0),
        ([8, 8, 8, torch.nan, 0], 4, 1.0),
        ([3, 2, torch.inf], 3, 1.0),
        ([8, 7, 5, 1, 9], 5, 4.0),
    ],
)
def test_rates_losses_and_suggestion(losses: list[float], seen: int, suggestion: float) -> None:
    learn = scalar(given := Losses(*losses))
    finder = LRFinderCB(start=1.0, gamma=2.0)
    learn.fit(1, cbs=[finder])
    assert finder.lrs == given.rates == [2.0**k for k in range(seen)]
    assert torch.tensor(finder.losses).equal(torch.tensor(losses[:seen], dtype=torch.float32)) or (
        torch.tensor(losses[:seen]).isnan().any()
    )
    assert finder.suggestion == suggestion


def test_validation_is_no_part_of_the_search() -> None:
    finder = LRFinderCB(start=1.0, gamma=2.0)
    scalar(Losses(1.0), n=2).fit(3, cbs=[finder])
    assert finder.lrs == [1, 2, 4, 8, 16, 32]


def test_a_search_may_be_done_again() -> None:
    finder = LRFinderCB(start=1.0, gamma=2.0)
    learn = scalar(Losses(1.0), n=2)
    for _ in range(2):
        learn.fit(1, cbs=[finder])
        assert finder.lrs == [1, 2]


def test_there_is_no_suggestion_without_two_batches() -> None:
    with pytest.raises(ValueError, match="needs two batches, and saw 0"):
        _ = LRFinderCB().suggestion


# --- nothing is left ----------------------------------------------------------------------------

draw = torch.Generator().manual_seed(0)
DATA = [
    (torch.randn(6, 4, generator=draw), torch.randint(3, (6,), generator=draw)) for _ in range(9)
]


def learner(kind: type[TrainLearner], opt_func: Any, *cbs: Callback) -> Learner:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    dls = DataLoaders(DATA, DATA[:2])
    return kind(model, dls, lr=0.05, opt_func=opt_func, cbs=cbs)


def everything(learn: Learner) -> dict[str, Any]:
    """What a fit goes on from."""
    return deepcopy(
        {
            "model": learn.model.state_dict(),
            "grads": [p.grad for p in learn.model.parameters()],
            "opt": learn.opt.state_dict() if learn.opt else None,
            "steps": learn.steps,
            "random": torch.get_rng_state(),
            "metrics": learn.metrics,
            "lr": learn.lr,
        }
    )


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


SGD = partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize("fitted", [0, 1], ids=["before a fit", "after a fit"])
@pytest.mark.parametrize("opt_func", [torch.optim.SGD, SGD, torch.optim.AdamW])
@pytest.mark.parametrize("kind", [TrainLearner, MomentumLearner])
def test_a_search_leaves_everything_as_it_was(
    kind: type[TrainLearner], opt_func: Any, fitted: int
) -> None:
    learn, other = (learner(kind, opt_func, AccumulateCB(2)) for _ in range(2))
    if fitted:
        torch.manual_seed(2)
        learn.fit(1)
        torch.manual_seed(2)
        other.fit(1)
    before, cbs, opt = everything(learn), learn.cbs, learn.opt
    finder = lr_find(learn, start=1e-3, gamma=2.0, n_epochs=4)
    assert len(finder.lrs) > 9
    assert_equal(everything(learn), before)
    assert learn.cbs is cbs
    assert learn.opt is opt
    # And so the next fit is the one that it would have been.
    state = torch.get_rng_state()
    learn.fit(2)
    torch.set_rng_state(state)
    other.fit(2)
    assert_equal(everything(learn), everything(other))


def test_what_is_about_a_run_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SummaryWriter(str(tmp_path / "board")) as writer:
        cbs = [
            metrics := MetricsCB(),
            BatchSchedCB(partial(StepLR, step_size=1, gamma=0.1)),
            stop := EarlyStoppingCB(patience=1),
            CheckpointCB(tmp_path / "checkpoints"),
            AverageCB(0.5),
            ProgressCB(),
            TensorBoardCB(writer, every=1),
            ValidateCB(),
        ]
        learn = learner(TrainLearner, SGD, *cbs)
        before = everything(learn)
        finder = lr_find(learn, start=1e-3, gamma=1.5)
        writer.flush()
    assert finder.lrs == pytest.approx([1e-3 * 1.5**k for k in range(len(finder.lrs))])
    assert len(finder.lrs) > 9
    assert_equal(everything(learn), before)
    assert stop.waited == 0
    assert not hasattr(metrics, "history")
    assert not (tmp_path / "checkpoints").exists()
    assert capsys.readouterr().out == ""


def test_an_error_in_a_search_leaves_everything_as_it_was_too() -> None:
    class Fail(Callback):
        def after_backward(self, learn: Learner) -> None:
            if learn.num == 3:
                raise ValueError("here")

    learn = learner(TrainLearner, SGD, Fail())
    before, cbs = everything(learn), learn.cbs
    with pytest.raises(ValueError, match="here"):
        lr_find(learn)
    assert_equal(everything(learn), before)
    assert learn.cbs is cbs


def test_an_error_before_the_search_is_that_error() -> None:
    class Fail(Callback):
        def before_fit(self, learn: Learner) -> None:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        lr_find(scalar(Fail()))


def test_the_next_fit_takes_the_suggestion() -> None:
    learn = learner(TrainLearner, SGD)
    learn.lr = lr_find(learn, start=1e-3).suggestion
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == learn.lr != 0.05
