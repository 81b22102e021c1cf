"""The rates and losses of a search, and that it leaves the Learner as it was."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.tensorboard.writer import SummaryWriter

from tests.learner.learners import Raises, assert_equal, classes, scalar
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


class Losses(Callback):
    """Has given losses, one after another, and writes down the rates of the steps."""

    def __init__(self, *losses: float) -> None:
        self.losses = losses
        self.rates: list[float] = []

    def after_loss(self, learn: Learner) -> None:
        number = self.losses[min(len(self.rates), len(self.losses) - 1)]
        learn.loss = learn.loss * 0 + number

    def before_step(self, learn: Learner) -> None:
        self.rates.append(learn.opt.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("losses", "seen", "suggestion"),
    [
        ([8, 7, 3, 2, 13], 5, 0.3 * 8),  # 13 is more than 4 times 2, the lowest
        ([8, 7, 3, 2, 8, 13], 6, 0.3 * 8),  # 8 is not more
        ([8, 7, 2.3, 2, 13], 5, 0.3 * 4),  # 2.3 has done 0.9 of the fall from 8 to 2
        ([8, 2.1, 7, 2, 13], 5, 0.3 * 8),  # one easy batch before it
        ([8, 2.1, 2.2, 2, 13], 5, 0.3 * 2),
        ([2.05, 7, 2, 2, 9], 5, 0.3 * 4),
        ([8, 8, 7, torch.nan, 0], 4, 0.3 * 4),
        ([8, 7.9, 7.92, 7.93, 40], 5, 8 / 8),  # a plateau, and 0.3 % above it
    ],
)
def test_rates_losses_and_suggestion(losses: list[float], seen: int, suggestion: float) -> None:
    learn = scalar(given := Losses(*losses), train=10)
    finder = LRFinderCB(start=1.0, gamma=2.0, end=1e9, beta=0.0)
    learn.fit(1, cbs=[finder])
    assert finder.lrs == given.rates == [2.0**k for k in range(seen)]
    assert torch.tensor(finder.losses).equal(torch.tensor(losses[:seen], dtype=torch.float32)) or (
        torch.tensor(losses[:seen]).isnan().any()
    )
    assert finder.suggestion == pytest.approx(suggestion)


def test_validation_is_no_part_of_the_search_which_may_be_done_again() -> None:
    finder = LRFinderCB(start=1.0, gamma=2.0, end=1e9)
    learn = scalar(Losses(1.0), train=2)
    for _ in range(2):
        learn.fit(3, cbs=[finder])
        assert finder.lrs == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "losses", [[], [1.0], [1.0, 1.0, 1.0], [1.0, 0.99, 0.985], [torch.nan], [torch.inf]]
)
def test_there_is_no_suggestion_where_the_loss_neither_fell_nor_rose(losses: list[float]) -> None:
    finder = LRFinderCB(start=0.5)
    finder.lrs, finder.losses = [0.5 * 1.15**n for n in range(len(losses))], losses
    with pytest.raises(
        ValueError, match=r"neither fell nor rose in a search of . batches from a rate of 0\.5"
    ):
        _ = finder.suggestion


def test_losses_are_smoothed_with_weights_that_sum_to_one() -> None:
    finder = LRFinderCB(beta=0.5)
    finder.losses = [4.0, 1.0, 2.0]
    assert finder.smoothed == pytest.approx([4, (4 + 2 * 1) / 3, (4 + 2 * 1 + 4 * 2) / 7])


def test_a_loss_that_jumps_about_is_not_taken_for_the_lowest() -> None:
    torch.manual_seed(0)
    finder = LRFinderCB()
    finder.lrs = [1e-5 * 1.15**n for n in range(90)]
    valley = torch.cat([torch.ones(50), torch.linspace(1, 0.5, 30), torch.linspace(0.5, 3, 10)])
    finder.losses = (valley + 0.05 * torch.randn(90)).tolist()
    finder.losses[20] = 0.8  # one easy batch
    assert finder.lrs[45] < finder.suggestion < finder.lrs[80]


# --- nothing is left ----------------------------------------------------------------------------


def learner(kind: type[TrainLearner], opt_func: Any, *cbs: Callback) -> Learner:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    dls = DataLoaders(classes(*[6] * 9), classes(6, 6))
    return kind(model, dls, lr=0.05, opt_func=opt_func, cbs=cbs)


def everything(learn: Learner) -> dict[str, Any]:
    """What the next fit depends on."""
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


SGD = partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize("fitted", [0, 1], ids=["before a fit", "after a fit"])
@pytest.mark.parametrize(
    ("kind", "opt_func"), [(TrainLearner, torch.optim.AdamW), (MomentumLearner, torch.optim.SGD)]
)
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


def test_a_search_goes_without_the_callbacks_of_a_run(
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
    fails = Raises("after_backward", ValueError("here"), lambda learn: learn.num == 3)
    learn = learner(TrainLearner, SGD, fails)
    before, cbs = everything(learn), learn.cbs
    with pytest.raises(ValueError, match="here"):
        lr_find(learn)
    assert_equal(everything(learn), before)
    assert learn.cbs is cbs


def test_an_error_before_the_search_is_that_error() -> None:
    with pytest.raises(ValueError, match="here"):
        lr_find(scalar(Raises("before_fit", ValueError("here"))))


def test_the_next_fit_takes_the_suggestion() -> None:
    learn = learner(TrainLearner, SGD)
    learn.dls = DataLoaders(classes(6) * 90, [])
    learn.lr = lr_find(learn).suggestion
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == learn.lr != 0.05


def test_a_search_ends_at_the_last_rate_where_the_loss_is_bounded() -> None:
    learn = scalar(Losses(1.0), train=10)
    assert lr_find(learn, start=1.0, gamma=2.0, end=8.0).lrs == [1, 2, 4, 8]


# --- the figure ---------------------------------------------------------------------------------


def test_the_figure_has_rates_losses_and_the_suggestion() -> None:
    learn = scalar(Losses(8, 7, 3, 2, 13), train=10)
    finder = learn.lr_find(start=1.0, gamma=2.0, end=1e9)
    (axis,) = finder.plot().axes
    lines = {line.get_label(): np.asarray(line.get_xydata()).T.tolist() for line in axis.lines}
    assert lines.pop("loss") == [finder.lrs, finder.losses]
    assert lines.pop("smoothed") == [finder.lrs, finder.smoothed]
    ((label, line),) = lines.items()
    assert label == f"suggestion {finder.suggestion:.2g}"
    assert repr(finder) == f"LRFinderCB: 5 rates, {label}"
    assert repr(LRFinderCB()) == "LRFinderCB: 0 rates, no suggestion"
    assert line[0] == [finder.suggestion] * 2
    assert axis.get_xscale() == "log"


def test_the_figure_is_what_a_notebook_shows_of_a_search() -> None:
    finder = LRFinderCB()
    assert finder._repr_png_() is None
    finder.lrs, finder.losses = [0.1, 1.0], [1.0, 1.0]  # no suggestion
    assert [line.get_label() for line in finder.plot().axes[0].lines] == ["loss", "smoothed"]
    png = finder._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")
