"""A loss that is not finite is traced to its origin before it reaches weights or a checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests import commands
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.data.datamodule import ImageDataModule
from twinloop.finite import LossCheck, NotFiniteError, check_weights, first_not_finite, random_state

pytestmark = pytest.mark.usefixtures("quick")
BREAKS = '''
from torch import nn


class Breaks(nn.Module):
    """Goes wrong from batch `at` on, in the way that `how` names."""

    def __init__(self, image_shape, classes, how="never", at=0):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.head = nn.Linear(8, classes)
        self.how, self.at, self.batches = how, at, 0

    def forward(self, x):
        self.batches += self.training
        x = self.body(x)
        if self.batches >= self.at:
            if self.how == "log" or (self.how == "val" and not self.training):
                x = (x - 1e6).log()
            if self.how == "weight":
                self.head.weight.data[0, 0] = float("inf")
            if self.how == "gradient":
                x = x + (0 * x).sqrt()  # 0 times the slope of a root at 0
        return self.head(x)
'''


def loss_of(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: model(x).square().mean()


class Log(nn.Module):
    """The logarithm, which is not finite for what is not positive."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def network(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(*middle), nn.Linear(3, 1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_loss_passes_only_if_it_is_finite(value: float) -> None:
    assert LossCheck(torch.tensor(1e38)).passed()
    assert not LossCheck(torch.tensor(value)).passed()


def test_the_innermost_module_is_named() -> None:
    model = network(nn.Tanh(), Log())
    origin = first_not_finite(model, loss_of(model, -torch.ones(4, 2)), random_state())
    assert origin == "the output of 1.1 (Log)"


def test_an_operation_between_modules_is_named_by_the_next_one() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second((self.first(x) - 1e6).log())  # type: ignore[no-any-return]

    model = Between()
    origin = first_not_finite(model, loss_of(model, torch.ones(1, 2)), random_state())
    assert origin == "the input of second (Linear)"


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = network(nn.Tanh())
    model.get_parameter("2.bias").data[0] = torch.nan
    origin = first_not_finite(model, loss_of(model, torch.ones(4, 2)), random_state())
    assert origin == "bias of 2 (Linear)"


def test_the_loss_function_is_named_where_the_model_is_fine() -> None:
    model = network(nn.Tanh())
    loss = loss_of(model, torch.ones(1, 2))
    origin = first_not_finite(model, lambda: loss() - torch.inf, random_state())
    assert origin == "the output of the loss function"


def test_the_search_repeats_random_numbers_and_leaves_no_hook() -> None:
    class Lottery(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log() if torch.rand(()) < 0.01 else x

    model = nn.Sequential(nn.Linear(2, 2), Lottery())
    before = random_state()
    while model(-torch.ones(1, 2)).isfinite().all():  # one in a hundred draws is a NaN
        before = random_state()
    after = torch.get_rng_state()
    assert "Lottery" in first_not_finite(model, loss_of(model, -torch.ones(1, 2)), before)
    assert torch.equal(torch.get_rng_state(), after)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loss_that_is_finite_when_repeated_has_an_unknown_origin() -> None:
    model = network(nn.Tanh())
    origin = first_not_finite(model, loss_of(model, torch.ones(1, 2)), random_state())
    assert origin.startswith("unknown")


def test_weights_are_checked_by_name() -> None:
    state = {"a": torch.ones(2), "n": torch.tensor(3), "b": torch.tensor([1.0, torch.inf])}
    with pytest.raises(NotFiniteError, match="b is not finite after step 7"):
        check_weights(state, 7)
    check_weights({name: state[name] for name in ("a", "n")}, 7)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one good epoch by each loop, and the module of its network."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "breaks.py").write_text(BREAKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for loop in LOOPS:
            assert fit(loop, folder / loop, "--trainer.max_epochs", "1") == 0
            for path in (folder / loop).rglob("last.ckpt"):
                # With its settings it could only be resumed by a network that does not break.
                checkpoint = torch.load(path)
                del checkpoint["settings"]
                torch.save(checkpoint, path)
    return folder


def fit(loop: str, folder: Path, *options: str) -> int:
    """Four batches an epoch by a network that may break."""
    few = ("--trainer.limit_train_batches", "4", "--model.network", "breaks.Breaks")
    return commands.fit(folder, *few, "--loop", loop, *options)


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("checkpoints/*")}


ACCUMULATED = ("--trainer.accumulate_grad_batches", "2")
CASES = {
    "log": (("log",), "train", 1, "step 6", "the input of network.head (Linear)"),
    "weight": (("weight",), "train", 1, "step 6", "weight of network.head (Linear)"),
    "64 bits": (
        ("log", "--trainer.precision", "64-true"),
        *("train", 1, "step 6", "the input of network.head (Linear)"),
    ),
    "val": (("val",), "val", 0, "after step 8", "the input of network.head (Linear)"),
    "accumulated": (
        ("log", *ACCUMULATED),
        *("train", 1, "step 5", "the input of network.head (Linear)"),
    ),
    "after a gradient": (("gradient",), "train", 2, "step 7", "weight of network.body.1 (Linear)"),
}


@pytest.mark.parametrize(
    ("case", "loop"),
    [
        *(("log", loop) for loop in LOOPS),
        *((case, LOOPS[number % 2]) for number, case in enumerate(list(CASES)[1:])),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    case: str,
    loop: Loop,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (how, *options), stage, batch, step, origin = CASES[case]
    monkeypatch.syspath_prepend(trained)
    folder = trained / loop
    before = checkpoints(folder)
    options += ["--trainer.max_epochs", "3", "--ckpt_path", "last"]
    options += ["--model.network.how", how, "--model.network.at", "2"]
    assert fit(loop, folder, *options) == 2
    data = ImageDataModule("digits")
    loader = data.train_batches() if stage == "train" else data.val_dataloader()
    loader.set_epoch(1)
    rows = loader.rows_of(batch).tolist()
    assert capsys.readouterr().err == (
        f"error: the loss is nan in epoch 2, batch {batch + 1} of {stage} ({step}); rows "
        f"{', '.join(map(str, rows[:8]))} and {len(rows) - 8} more of the train split; first not "
        f"finite: {origin}; checkpoints are unaffected; start again with a lower learning rate, "
        "or see the operation with trainer.detect_anomaly (in Python: AnomalyCB)\n"
    )
    assert checkpoints(folder) == before
    assert before.keys() == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("loop", LOOPS)
def test_weights_that_are_not_finite_are_not_saved_when_the_loss_was_finite(
    loop: Loop,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(trained)
    options = ["--trainer.max_epochs", "3", "--trainer.limit_val_batches", "0"]
    options += ["--model.network.how", "gradient", "--model.network.at", "8"]
    assert fit(loop, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: network.body.1.weight is not finite after step 8; checkpoints")
    assert error.count("\n") == 1
    assert torch.load(next(tmp_path.rglob("last.ckpt")))["global_step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_huge_learning_rate_ends_before_anything_is_saved(
    loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_fast = ("--model.optimizer.lr", "1e30", "--loop", loop)
    for options in ((), ("--trainer.fast_dev_run", "3")):
        assert commands.fit(tmp_path, *too_fast, *options) == 2
        assert re.fullmatch(
            r"error: the loss is (nan|inf) in epoch 1, batch 2 of train \(step 2\); rows .*; first "
            r"not finite: the output of network\.\S+ \(Linear\); [^\n]*\n",
            commands.error_line(capsys),
        )
    assert checkpoints(tmp_path) == {}
    assert commands.fit(tmp_path, *too_fast, "--trainer.fast_dev_run", "3", "--debug") == 2
    rows = ImageDataModule("digits", batch_size=256).train_batches().rows_of(1).tolist()
    assert f"rows: {rows}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_detect_anomaly_names_the_operation_in_one_line(
    loop: Loop,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(trained)
    options = ["--model.network.how", "gradient", "--trainer.detect_anomaly", "true"]
    assert fit(loop, tmp_path, *options) == 2
    assert capsys.readouterr().err == (
        "error: the gradient became NaN in MulBackward0, the backward of an operation of the "
        "network or the loss; checkpoints are unaffected; --debug shows where the forward called "
        "it\n"
    )
    assert checkpoints(tmp_path) == {}
    assert not torch.is_anomaly_enabled()
