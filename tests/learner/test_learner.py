"""fit -> one_epoch -> one_batch, and who does what in them."""

import ast
import contextlib
import doctest
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

import twinloop.learner
from tests.learner.learners import Batch, Raises, assert_equal, classes, weights
from twinloop.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    DataLoaders,
    Learner,
    MomentumLearner,
    TrainLearner,
)
from twinloop.learner.callback import with_cbs
from twinloop.learner.callbacks import (
    BatchSchedCB,
    CheckpointCB,
    GradientClipCB,
    LRFinderCB,
    MetricsCB,
    SingleBatchCB,
    TrainCB,
)

PACKAGE = Path(twinloop.learner.__file__).parent
MODULES = [
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], prefix=f"{twinloop.learner.__name__}.")
]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def dls() -> DataLoaders:
    """Four batches of train, the last one smaller, and two of valid."""
    return DataLoaders(classes(5, 5, 5, 2), classes(5, 2, seed=1))


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["callback", "subclass"])
@pytest.mark.parametrize(
    "opt_func", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)]
)
def test_it_is_a_loop_written_by_hand(
    kind: str, opt_func: Callable[..., torch.optim.Optimizer]
) -> None:
    if kind == "callback":
        learn = Learner(network(), dls(), lr=0.05, opt_func=opt_func, cbs=[TrainCB()])
    else:
        learn = TrainLearner(network(), dls(), lr=0.05, opt_func=opt_func)
    start = weights(learn)
    learn.fit(1)
    learn.fit(2)  # with the momentum of the first fit

    model = network()
    opt = opt_func(model.parameters(), lr=0.05)
    for xb, yb in dls().train * 3:
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()  # type: ignore[no-untyped-call]
        opt.step()
    assert_equal(weights(learn), [weight.detach() for weight in model.parameters()])
    assert not torch.equal(start[0], weights(learn)[0])
    assert learn.steps == 12


def test_momentum_learner_is_sgd_with_momentum_to_the_bit() -> None:
    # Both have v <- momentum * v + gradient, w <- w - lr * v with v = 0 before the first step;
    # torch keeps v in the optimiser (with dampening 0), the MomentumLearner where gradients are.
    kept = MomentumLearner(network(), dls(), lr=0.1)

    def sgd(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr, momentum=0.85)

    reference = TrainLearner(network(), dls(), lr=0.1, opt_func=sgd)
    for _ in range(2):
        for learn in (kept, reference):
            learn.fit(2)
        assert_equal(weights(kept), weights(reference))
    for parameter, other in zip(kept.model.parameters(), reference.model.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, 0.85 * reference.opt.state[other]["momentum_buffer"])


def test_a_fit_begins_with_the_rate_that_the_learner_has_now() -> None:
    learn = TrainLearner(network(), dls(), lr=0.5)
    learn.fit(1)
    learn.lr = 0.25
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == 0.25
    learn.fit(1, lr=0.125)
    assert learn.opt.param_groups[0]["lr"] == 0.125
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == 0.25


def test_a_fit_begins_with_the_optimiser_that_the_learner_has_now() -> None:
    learn, other = (TrainLearner(network(), dls(), opt_func=torch.optim.AdamW) for _ in range(2))
    for one in (learn, other):
        one.fit(1)
    learn.opt_func = partial(torch.optim.SGD, momentum=0.9)
    learn.fit(1)
    assert isinstance(learn.opt, torch.optim.SGD)
    other.opt = None  # forgets its momentum
    other.fit(1)
    assert [state["step"] for state in other.opt.state.values()] == [4] * 4
    other.fit(1)
    assert [state["step"] for state in other.opt.state.values()] == [8] * 4


def test_a_fit_trains_the_model_that_the_learner_has_now() -> None:
    learn = TrainLearner(network(), dls(), opt_func=torch.optim.AdamW)
    learn.fit(1)
    learn.model[2] = nn.Linear(6, 3)  # type: ignore[operator]
    before = weights(learn)
    learn.fit(1)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(learn), strict=True))
    # The layer that stayed has its momentum, and the new one begins without.
    assert [state["step"] for state in learn.opt.state.values()] == [8, 8, 4, 4]
    learn.model = network()
    before = weights(learn)
    learn.fit(1)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(learn), strict=True))


def test_an_optimiser_that_a_fit_could_not_use_is_an_error() -> None:
    learn = TrainLearner(network(), dls())
    learn.opt = torch.optim.Adam(learn.model.parameters())
    with pytest.raises(ValueError, match=r"learn\.opt was set, but .* set learn\.opt_func to"):
        learn.fit(1)
    mine, learn.opt = learn.opt, None
    learn.opt_func = lambda _, lr: mine  # noqa: ARG005
    learn.fit(1)
    with pytest.raises(ValueError, match="opt_func gave the optimiser of the last fit"):
        learn.fit(1)
    learn.model = network()
    learn.opt_func = lambda _, lr: torch.optim.SGD(mine.param_groups[0]["params"], lr)
    with pytest.raises(ValueError, match="the optimiser has none of the model's parameters"):
        learn.fit(1)


def test_an_optimiser_needs_no_more_than_step_and_zero_grad() -> None:
    class Own:
        """The lesson's: w <- w - lr * gradient."""

        def __init__(self, parameters: Iterator[nn.Parameter], lr: float) -> None:
            self.parameters, self.lr = list(parameters), lr

        def step(self) -> None:
            with torch.no_grad():
                for parameter in self.parameters:
                    assert parameter.grad is not None
                    parameter.sub_(self.lr * parameter.grad)

        def zero_grad(self) -> None:
            for parameter in self.parameters:
                parameter.grad = None

    own: Callable[..., Any] = Own
    learn, other = TrainLearner(network(), dls(), opt_func=own), TrainLearner(network(), dls())
    for one in (learn, other):
        one.fit(1)
        one.fit(1, lr=0.01)
    for a, b in zip(weights(learn), weights(other), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize(
    ("cb", "missing"),
    [
        (BatchSchedCB(partial(StepLR, step_size=1)), "BatchSchedCB uses param_groups"),
        (GradientClipCB(1.0), "GradientClipCB uses param_groups"),
        (CheckpointCB("folder", None), "CheckpointCB uses state_dict"),
        (LRFinderCB(), "LRFinderCB uses param_groups"),
    ],
)
def test_what_a_callback_uses_of_the_optimiser_must_be_there(cb: Callback, missing: str) -> None:
    class Own:
        step = zero_grad = print

    opt_func: Callable[..., Any] = lambda parameters, lr: Own()  # noqa: ARG005, E731
    learn = TrainLearner(network(), dls(), opt_func=opt_func)
    learn.fit(1)
    with pytest.raises(TypeError, match=f"^{missing} of the optimiser, which opt_func's Own"):
        learn.fit(1, cbs=[cb])


def test_what_makes_no_optimiser_is_an_error() -> None:
    model = network()
    opt_func: Any = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match="opt_func is a SGD, not what makes one; give the class"):
        TrainLearner(model, dls(), opt_func=opt_func).fit(1)
    opt_func = lambda parameters, lr: None  # noqa: ARG005, E731
    with pytest.raises(TypeError, match="a fit uses step of the optimiser"):
        TrainLearner(model, dls(), opt_func=opt_func).fit(1)


# --- where it is --------------------------------------------------------------------------------


class Where(Callback):
    """Writes down where the Learner is at each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int, bool, bool]] = []

    def after_loss(self, learn: Learner) -> None:
        grad = torch.is_grad_enabled()
        self.seen.append((learn.epoch, learn.stage, learn.num, learn.model.training, grad))


@pytest.mark.parametrize(
    ("train", "valid"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_it_goes_through_what_it_is_told_to(train: bool, valid: bool) -> None:
    learn = TrainLearner(network(), dls(), cbs=[where := Where()])
    before = weights(learn)
    learn.fit(2, train=train, valid=valid)
    assert where.seen == [
        (epoch, stage, num, is_train, is_train)
        for epoch in range(2)
        for stage, n, is_train, wanted in (("train", 4, True, train), ("val", 2, False, valid))
        if wanted
        for num in range(n)
    ]
    assert (learn.epoch, learn.steps) == (2, 8 * train)
    if not train:
        assert_equal(weights(learn), before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_a_fit_of_no_epochs_or_batches_is_no_error(n_epochs: int) -> None:
    learn = TrainLearner(network(), DataLoaders([], []), cbs=[MetricsCB()])
    before = weights(learn)
    learn.fit(n_epochs)
    assert (learn.epoch, learn.steps, learn.metrics) == (n_epochs, 0, {})
    assert_equal(weights(learn), before)


def test_stopping_ends_the_epoch_and_the_fit_after_this_batch() -> None:
    class Stop(Callback):
        def after_batch(self, learn: Learner) -> None:
            learn.stopping |= (learn.epoch, learn.num) == (1, 2)

    learn = TrainLearner(network(), dls(), cbs=[Stop(), where := Where()])
    learn.fit(5)
    # What the epoch has so far is still validated, and the next fit begins anew.
    assert [row[:3] for row in where.seen[6:]] == [
        *((1, "train", num) for num in range(3)),
        *((1, "val", num) for num in range(2)),
    ]
    assert learn.epoch == 2
    learn.fit(1)
    assert learn.steps == 4 + 3 + 4


def test_a_loader_is_not_asked_for_a_batch_too_many() -> None:
    asked = []

    class Loader:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Batch]:
            for number in range(10):
                asked.append(number)
                yield classes(5)[0]

    TrainLearner(network(), DataLoaders(Loader(), [])).fit(1)
    assert asked == [0, 1, 2]


def test_gradients_are_on_again_after_an_error_in_valid() -> None:
    fails = Raises("after_loss", ValueError("in valid"), lambda learn: not learn.training)
    with pytest.raises(ValueError, match="in valid"):
        TrainLearner(network(), dls(), cbs=[fails]).fit(1)
    assert torch.is_grad_enabled()


def test_nothing_of_a_cancelled_fit_is_left_for_the_next() -> None:
    learn = TrainLearner(network(), dls(), cbs=[where := Where()])
    learn.fit(1, cbs=[SingleBatchCB()])
    assert len(where.seen) == learn.steps == 1
    learn.fit(1)
    assert learn.steps == 5
    assert len(learn.cbs) == 1


@pytest.mark.parametrize("event", ["after_backward", "before_step"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), CancelBatchException(), CancelEpochException()]
)
def test_the_gradients_of_a_batch_that_was_left_are_not_added_to_the_next(
    event: str, error: BaseException
) -> None:
    learn, other = TrainLearner(network(), dls()), TrainLearner(network(), dls())
    stop = Raises(event, error, lambda learn: learn.num == 1)
    with contextlib.suppress(KeyboardInterrupt):
        learn.fit(1, valid=False, cbs=[stop])
    taken = [0] if learn.steps == 1 else [0, 2, 3]
    other.dls = DataLoaders([dls().train[n] for n in taken], [])
    other.fit(1)
    assert_equal(weights(learn), weights(other))
    other.dls = dls()
    for one in (learn, other):
        one.fit(1)
    assert_equal(weights(learn), weights(other))


# --- the package --------------------------------------------------------------------------------


def test_it_imports_no_lightning_and_nothing_above_it() -> None:
    loose = ("canvas", "errors", "figures", "files", "finite", "notebook", "progress")
    below = [f"twinloop.{name}" for name in loose]
    drawing = {"IPython", "PIL", "matplotlib", "numpy", "rich"}
    allowed = {"twinloop", "twinloop.learner", *below, "torch", "torchmetrics", *drawing}
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) >= 25
    for file in [*files, *(Path(str(sys.modules[name].__file__)) for name in below)]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [str(node.module)]
            for name in names:
                known = any(name == root or name.startswith(f"{root}.") for root in allowed)
                assert known or name.split(".")[0] in sys.stdlib_module_names, (file, name)


def test_a_reader_sees_the_learner_whole() -> None:
    # With the decorator above it and with everything that it inherits.
    assert Learner.__mro__ == (Learner, object)
    assert len(inspect.getsource(Learner).splitlines()) <= 120
    assert len(inspect.getsource(with_cbs.__call__).splitlines()) <= 15


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0
    taught = name.rpartition(".")[2] in ("callback", "learner", "metrics", "simple")
    assert found.attempted or not taught or "callbacks" in name
