"""fit -> one_epoch -> one_batch, and who does what in them."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import twinloop.learner
from twinloop.learner import (
    Callback,
    DataLoaders,
    Learner,
    MomentumLearner,
    TrainLearner,
)
from twinloop.learner import learner as module
from twinloop.learner.callbacks import MetricsCB, SingleBatchCB, TrainCB

PACKAGE = Path(twinloop.learner.__file__).parent
MODULES = [
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], prefix=f"{twinloop.learner.__name__}.")
]
Batches = list[tuple[Tensor, Tensor]]


def batches(n: int = 3, seed: int = 0) -> Batches:
    """Batches of five rows, `n` of them, and a last one of two."""
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))
        for size in [5] * n + [2]
    ]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def dls() -> DataLoaders:
    return DataLoaders(batches(), batches(1, seed=1))


def weights(learn: Learner) -> list[Tensor]:
    return [weight.detach().clone() for weight in learn.model.parameters()]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other) > 0
    assert all(map(torch.equal, one, other))


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opt_func",
    [torch.optim.SGD, torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)],
    ids=["SGD", "AdamW", "momentum"],
)
@pytest.mark.parametrize("kind", ["callback", "subclass"])
def test_it_is_a_loop_written_by_hand(
    kind: str, opt_func: Callable[..., torch.optim.Optimizer]
) -> None:
    if kind == "callback":
        learn = Learner(network(), dls(), lr=0.05, opt_func=opt_func, cbs=[TrainCB()])
    else:
        learn = TrainLearner(network(), dls(), lr=0.05, opt_func=opt_func)
    start = weights(learn)
    learn.fit(3)

    model = network()
    opt = opt_func(model.parameters(), lr=0.05)
    for _ in range(3):
        for xb, yb in batches():
            opt.zero_grad()
            F.cross_entropy(model(xb), yb).backward()  # type: ignore[no-untyped-call]
            opt.step()
    assert_equal(weights(learn), list(model.parameters()))
    assert not torch.equal(start[0], weights(learn)[0])
    assert learn.steps == 12


def test_train_learner_is_learner_with_train_cb_to_every_number() -> None:
    one = Learner(network(), dls(), cbs=[TrainCB(), a := MetricsCB()])
    other = TrainLearner(network(), dls(), cbs=[b := MetricsCB()])
    for learn in (one, other):
        learn.fit(2)
    assert_equal(weights(one), weights(other))
    assert a.history == b.history
    assert len(a.history) == 2


@pytest.mark.parametrize("momentum", [0.0, 0.85, 0.9])
def test_momentum_learner_is_sgd_with_momentum_to_the_bit(momentum: float) -> None:
    # Both have v <- momentum * v + gradient, w <- w - lr * v with v = 0 before the first step;
    # torch keeps v in the optimiser (with dampening 0), the MomentumLearner where gradients are.
    kept = MomentumLearner(network(), dls(), lr=0.1, momentum=momentum)

    def sgd(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr, momentum=momentum)

    reference = TrainLearner(network(), dls(), lr=0.1, opt_func=sgd)
    for _ in range(2):  # and it goes on in a second fit
        for learn in (kept, reference):
            learn.fit(2)
        assert_equal(weights(kept), weights(reference))
    for parameter, other in zip(kept.model.parameters(), reference.model.parameters(), strict=True):
        assert parameter.grad is not None
        v = reference.opt.state[other].get("momentum_buffer", torch.zeros_like(other))
        assert torch.equal(parameter.grad, momentum * v)


def test_momentum_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    # The loss is the prediction itself, whose gradient is 1: v = 1, 1.5, 1.75.
    ones: Batches = [(torch.ones(1, 1), torch.zeros(1))] * 3
    learn = MomentumLearner(
        model, DataLoaders(ones, ()), lambda preds, _: preds.sum(), lr=1.0, momentum=0.5
    )
    learn.fit(1, valid=False)
    assert model.weight.item() == -(1 + 1.5 + 1.75)
    assert MomentumLearner(model, DataLoaders((), ())).momentum == 0.85


def test_an_optimiser_lives_on_in_the_next_fit() -> None:
    once = TrainLearner(network(), dls(), lr=0.01, opt_func=torch.optim.AdamW)
    once.fit(3)
    twice = TrainLearner(network(), dls(), lr=0.01, opt_func=torch.optim.AdamW)
    twice.fit(1)
    twice.fit(2)
    assert_equal(weights(once), weights(twice))
    assert once.steps == twice.steps == 12


# --- where it is --------------------------------------------------------------------------------


class Where(Callback):
    """Writes down where the Learner is at each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int, bool, bool]] = []

    def after_loss(self, learn: Learner) -> None:
        """Write it down."""
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

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for number in range(10):
                asked.append(number)
                yield batches()[0]

    TrainLearner(network(), DataLoaders(Loader(), [])).fit(1)
    assert asked == [0, 1, 2]


def test_gradients_are_off_in_valid_and_as_before_after_an_error() -> None:
    class Fail(Callback):
        def after_loss(self, learn: Learner) -> None:
            if not learn.training:
                assert not learn.loss.requires_grad
                raise ValueError("in valid")

    with pytest.raises(ValueError, match="in valid"):
        TrainLearner(network(), dls(), cbs=[Fail()]).fit(1)
    assert torch.is_grad_enabled()


def test_nothing_of_a_cancelled_fit_is_left_for_the_next() -> None:
    learn = TrainLearner(network(), dls(), cbs=[where := Where()])
    learn.fit(1, cbs=[SingleBatchCB()])
    assert len(where.seen) == learn.steps == 1
    learn.fit(1)
    assert learn.steps == 5
    assert len(learn.cbs) == 1


# --- the package --------------------------------------------------------------------------------


def test_the_class_is_at_most_60_lines() -> None:
    lines = inspect.getsource(Learner).splitlines()
    assert lines[0] == "@dataclass(eq=False)"
    assert len(lines) <= 60
    (tree,) = [
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == "Learner"
    ]
    assert tree.end_lineno is not None
    assert tree.end_lineno - tree.lineno + 1 <= 60


def test_no_file_imports_lightning_or_what_is_above_it() -> None:
    # four of the project's own are below everything
    allowed = {
        "twinloop.learner",
        *("twinloop.errors", "twinloop.files", "twinloop.finite", "twinloop.progress"),
        "torch",
        "torchmetrics",
        "rich",
    }
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) >= 25
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [str(node.module)]
            for name in names:
                known = any(name == root or name.startswith(f"{root}.") for root in allowed)
                assert known or name.split(".")[0] in sys.stdlib_module_names, (file, name)


def test_importing_all_of_it_imports_no_lightning() -> None:
    script = (
        f"import importlib, sys\nfor name in {MODULES}: importlib.import_module(name)\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in "
        "('lightning', 'pytorch_lightning', 'lightning_fabric')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_callback_is_exported() -> None:
    names = vars(importlib.import_module("twinloop.learner.callbacks"))
    found = {
        name
        for file in MODULES
        for name, kind in vars(importlib.import_module(file)).items()
        if inspect.isclass(kind) and issubclass(kind, Callback)
        if name.endswith("CB") and name != "SchedCB"
    }
    assert len(found) >= 26
    assert found <= names.keys()


@pytest.mark.parametrize("name", ["twinloop.learner", *MODULES])
def test_doctests(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_the_modules_that_teach_have_doctests() -> None:
    taught = {
        name: doctest.DocTestFinder().find(importlib.import_module(f"twinloop.learner.{name}"))
        for name in ("callback", "learner", "metrics", "simple")
    }
    assert all(any(part.examples for part in parts) for parts in taught.values())


def test_the_rate_is_the_first_fits_until_there_is_a_new_optimiser() -> None:
    learn = TrainLearner(network(), dls(), lr=0.5)
    learn.fit(1)
    learn.lr = 0.25
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == 0.5
    learn.opt = None
    learn.fit(1)
    assert learn.opt.param_groups[0]["lr"] == 0.25
