"""After an error anywhere in a fit the process is as it was before, in either loop."""

import gc
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback as LightningCallback
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from tests import commands
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.learner import Callback
from twinloop.learner.callback import EVENTS
from twinloop.loops.homemade import learner_callbacks
from twinloop.loops.lightning import trainer_callbacks
from twinloop.tasks import Task

pytestmark = pytest.mark.usefixtures("_cublas", "quick")
HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end"),
    *("on_validation_start", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end"),
)
FEW = [("lightning", "on_validation_batch_end"), ("homemade", "after_loss")]
ALL = [("lightning", hook) for hook in HOOKS] + [("homemade", event) for event in EVENTS]
REST = [pytest.param(*place, marks=pytest.mark.slow) for place in ALL if place not in FEW]


@pytest.fixture
def _cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lightning sets for deterministic algorithms on a GPU, gone again after the test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def fit(loop: str, folder: Path, precision: str) -> int:
    """Train for two batches with all that could leave something behind."""
    options = ["--loop", loop, "--trainer.precision", precision, "--record", "all"]
    options += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    options += ["--trainer.detect_anomaly", "true", "--trainer.deterministic", "true"]
    options += ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
    options += ["--model.network.widths", "[4,8]"]
    return commands.fit(folder, *options, experiment="classifier")


def surroundings() -> dict[str, Any]:
    """What a fit could leave changed in the process."""
    gc.collect()
    files = [str(path.resolve()) for path in Path("/proc/self/fd").iterdir()]
    module: Any = nn.modules.module
    return {
        # tqdm's own thread stays from the first bar of the process on.
        "threads": sorted({t.name for t in threading.enumerate()} - {"tqdm_monitor"}),
        "files": sorted(path for path in files if not path.startswith("/proc")),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "thread hook": threading.excepthook,
        "warnings": list(warnings.filters),
        "gradients": torch.is_grad_enabled(),
        "type": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks of all modules": len(module._global_forward_hooks),
        "hooks of all optimisers": len(_global_optimizer_post_hooks),
    }


def assert_unchanged(before: dict[str, Any]) -> None:
    """Nothing is there that was not; what an earlier test had left may be gone meanwhile."""
    now = surroundings()
    for name in ("threads", "files"):
        assert not Counter(now.pop(name)) - Counter(before.pop(name)), name
    assert now == before


def hooks(model: nn.Module) -> int:
    """Hooks on a module of `model`, or on a parameter."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = sum(len(getattr(module, name)) for module in model.modules() for name in names)
    return found + sum(len(weight._backward_hooks or ()) for weight in model.parameters())


@pytest.fixture(scope="module", params=LOOPS)
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Loop, dict[str, Tensor]]:
    """The weights of a run before which nothing has failed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        assert fit(request.param, folder, "64-true") == 0
    return request.param, weights(folder)


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(next(folder.rglob("last.ckpt")))["state_dict"]
    return found


def fail_at(place: str, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Have both loops fail there; returns a list that will have the task in it."""
    models: list[nn.Module] = []

    def fails(*_: Any) -> None:
        raise ArithmeticError(place)

    def failing(make: Callable[..., Any], kind: type[Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            callback = kind()
            setattr(callback, place, fails)
            return [*make(*args, **options), callback]

        return made

    learn = Task.__init__

    def remember(task: Task, *args: Any, **options: Any) -> None:
        learn(task, *args, **options)
        models.append(task)

    monkeypatch.setattr(Task, "__init__", remember)

    if place in EVENTS:
        made = failing(learner_callbacks, Callback)
        monkeypatch.setattr("twinloop.loops.homemade.learner_callbacks", made)
    else:
        made = failing(trainer_callbacks, LightningCallback)
        monkeypatch.setattr("twinloop.loops.lightning.trainer_callbacks", made)
    return models


@pytest.mark.parametrize(
    "precision", ["64-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("loop", "place"), [*FEW, *REST])
def test_an_error_leaves_no_hook_thread_file_or_setting_behind(
    loop: Loop,
    place: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = fail_at(place, monkeypatch)
    before = surroundings()
    assert fit(loop, tmp_path, precision) == 1
    assert f"error: ArithmeticError('{place}')" in capsys.readouterr().err
    assert [hooks(model) for model in models] == [0]
    models.clear()  # a task knows its trainer, and that one the mapped files of the data
    assert_unchanged(before)


@pytest.mark.slow
def test_a_run_after_a_failed_one_ends_with_the_same_weights(
    undisturbed: tuple[Loop, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, expected = undisturbed
    with monkeypatch.context() as patch:
        fail_at("after_backward" if loop == "homemade" else "on_after_backward", patch)
        assert fit(loop, tmp_path / "failed", "64-true") == 1
    before = surroundings()
    assert fit(loop, tmp_path / "next", "64-true") == 0
    assert_unchanged(before)
    found = weights(tmp_path / "next")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
