"""One class of a user's Lightning callback sees the same in both loops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
from torch.optim import SGD

import twinloop.learner
from tests.commands import fit, quiet_trainer, run_in, saved, write_module
from twinloop.comparison.parity import LOOPS
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.loops.homemade import build_learner
from twinloop.loops.observe import HOOKS, missing_hooks
from twinloop.models import LessonAutoencoder
from twinloop.tasks import Reconstruction


def watching() -> tuple[lightning.pytorch.Callback, list[Any]]:
    """A callback with every hook that both loops call, and what it has seen."""
    seen: list[Any] = []

    def hook(name: str) -> Callable[..., None]:
        def called(_: Any, trainer: Any, task: Any, *args: Any) -> None:
            metrics = {k: v for k, v in trainer.callback_metrics.items() if "step" not in k}
            seen.append((name, trainer.current_epoch, trainer.global_step, metrics))
            seen.append([_plain(arg) for arg in args])
            if name == "on_after_backward":
                seen.append([weight.grad.sum().item() for weight in task.parameters()])

        return called

    hooks = {name: hook(name) for name in HOOKS if name.startswith("on_")}
    return type("Watch", (lightning.pytorch.Callback,), hooks)(), seen


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, torch.optim.Optimizer):
        return [group["lr"] for group in value.param_groups]
    return value.double().sum().item() if isinstance(value, torch.Tensor) else value


def train(loop: str, data: ImageDataModule, callback: Any, **flags: Any) -> dict[str, torch.Tensor]:
    """Train for two epochs of four batches with noise, and validate twice in each."""
    torch.manual_seed(0)
    task = Reconstruction(LessonAutoencoder, lambda w: SGD(w, 0.1), data.spec, noise=0.1)
    few = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1}
    flags = few | {"val_check_interval": 2, "callbacks": [callback]} | flags
    if loop == "lightning":
        quiet_trainer(**flags).fit(task, datamodule=data)
    else:
        learn = build_learner(task, data, flags)
        learn.fit(learn.n_epochs, valid=False)
    return task.state_dict()


def test_a_callback_sees_the_same_in_both_loops(digits: ImageDataModule) -> None:
    (watch, one), (other_watch, other) = watching(), watching()
    train("lightning", digits, watch, accumulate_grad_batches=2)
    train("homemade", digits, other_watch, accumulate_grad_batches=2)
    assert one == other
    assert {part[0] for part in one if isinstance(part, tuple)} == {
        name for name in HOOKS if name.startswith("on_")
    }


class Clamp(lightning.pytorch.Callback):
    """Keeps the weights small."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for weight in pl_module.parameters():
            weight.data.clamp_(-0.01, 0.01)


class ClampInBoth(Clamp, twinloop.learner.Callback):
    """The Learner calls its own event of this one, and a Trainer the hook."""

    def after_batch(self, learn: twinloop.learner.Learner) -> None:
        if learn.training:
            self.on_train_batch_end(None, learn.model)


@pytest.mark.parametrize("kind", [Clamp, ClampInBoth])
def test_a_callback_acts_alike_in_both_loops(kind: type[Clamp], digits: ImageDataModule) -> None:
    one, other = (train(loop, digits, kind()) for loop in ("lightning", "homemade"))
    assert max(weight.abs().max() for weight in one.values()) == torch.tensor(0.01)
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


class Sets(lightning.pytorch.Callback):
    """Changes the Trainer."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        trainer.accumulate_grad_batches = 2


class Logs(lightning.pytorch.Callback):
    """Logs a metric of its own."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("more", 1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("callback", "used"), [(Sets(), "trainer.accumulate_grad_batches"), (Logs(), "self.log")]
)
def test_what_the_learner_would_not_read_is_refused_by_name(
    callback: Any, used: str, digits: ImageDataModule
) -> None:
    with pytest.raises(UserError, match=f"a callback uses {used}, which the homemade loop does"):
        train("homemade", digits, callback)


class SetsUp(Sets):
    """Has a hook that the Learner lacks, and one that no fit calls."""

    def setup(self, *_: Any, **__: Any) -> None: ...

    def on_test_end(self, *_: Any) -> None: ...


def test_hooks_that_the_learner_does_not_call_are_found() -> None:
    assert missing_hooks(Clamp()) == []
    assert missing_hooks(SetsUp()) == ["setup"]
    changed = Clamp()
    vars(changed)["on_exception"] = print
    assert missing_hooks(changed) == ["on_exception"]
    own = lightning.pytorch.callbacks.LambdaCallback(on_train_end=print)
    assert missing_hooks(own) == ["on_train_end"]


COUNTS = """
from lightning.pytorch import Callback

class Counts(Callback):
    count = 0

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("loops", [LOOPS, LOOPS[::-1]])
def test_the_state_of_a_callback_is_resumed_by_the_other_loop(
    loops: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_counts", COUNTS, monkeypatch)
    options = ["--trainer.callbacks+=own_counts.Counts", "--loop"]
    assert fit(tmp_path, *options, loops[0], "--trainer.max_epochs=1") == 0
    assert saved(run_in(tmp_path))["callbacks"]["Counts"] == {"count": 3}
    assert fit(tmp_path, *options, loops[1], "--ckpt_path=last") == 0
    assert saved(run_in(tmp_path))["callbacks"]["Counts"] == {"count": 6}
