"""What a Trainer does with a task, its data and the flags, the Learner does too."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.optim import LBFGS, SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from tests.commands import fit, quiet_trainer
from twinloop.comparison.parity import LOOPS, Loop
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, Learner
from twinloop.loops.homemade import build_learner
from twinloop.models import MLP
from twinloop.runs.throughput import MEASURED, PARTS
from twinloop.tasks import Classification, OneCycle
from twinloop.tasks.task import ImageBatch


def read_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith(MEASURED)
    }


def read_tags(run: Path) -> dict[str, list[str]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {kind: sorted(tags) for kind, tags in events.Tags().items() if isinstance(tags, list)}


@pytest.mark.parametrize(
    ("experiment", "rate"),
    [
        ("classifier", "lr-Grouped/pg2"),
        pytest.param("autoencoder", "lr-AdamW", marks=pytest.mark.slow),
    ],
)
def test_both_loops_leave_the_same_folder(experiment: str, rate: str, tmp_path: Path) -> None:
    for loop in ("lightning", "homemade"):
        options = ["--trainer.max_epochs", "1", "--model.network.widths", "[4,8]"]
        options += ["--trainer.limit_train_batches", "5"]
        options += ["--trainer.accumulate_grad_batches", "2", "--trainer.log_every_n_steps", "2"]
        assert fit(tmp_path, *options, "--loop", loop, experiment=experiment) == 0
    one, other = sorted((tmp_path / "lightning_logs" / experiment).iterdir())

    def files(run: Path) -> set[str]:
        found = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
        return {str(path) for path in found if "tfevents" not in path.name}

    assert files(one) == files(other)
    assert read_tags(one) == read_tags(other)
    scalars = read_scalars(one)
    assert scalars == read_scalars(other)
    assert scalars[rate]
    a, b = (json.loads((run / "results.json").read_text()) for run in (one, other))
    assert (a["loop"], b["loop"]) == ("lightning", "homemade")
    for results in (a, b):
        assert results.pop("trained_by") == [results.pop("loop")]
        measured = results.pop("measured")
        assert all(measured[f"{part}_share"] > 0 for part in PARTS)
        del results["seconds"]
        for row in results["history"]:
            del row["seconds"]
    assert a == b


def test_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    for loop in LOOPS:
        assert fit(tmp_path, "--trainer.fast_dev_run", "true", "--loop", loop) == 0
    assert not list(tmp_path.iterdir())


def test_the_learner_is_built_without_touching_the_generator(digits: ImageDataModule) -> None:
    task = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    before = torch.get_rng_state()
    build_learner(task, digits, {"max_epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_fit_begins_as_the_first_one_did(digits: ImageDataModule) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def before_step(self, learn: Learner) -> None:
            self.seen.append(learn.opt.param_groups[0]["lr"])

    task = Classification(MLP, lambda weights: SGD(weights, 0.5), digits.spec, schedule=OneCycle())
    few = {"accelerator": "cpu", "max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1}
    learn = build_learner(task, digits, few, [rates := Rates()])
    assert learn.lr == 0.5
    for lr in (None, None, 0.25):
        learn.fit(learn.n_epochs, valid=False, lr=lr)
    first, second, third = (rates.seen[n : n + 8] for n in (0, 8, 16))
    assert max(first) == 0.5
    assert second == first
    assert third == pytest.approx([rate / 2 for rate in first])


def test_a_rate_that_a_task_sets_itself_is_not_silently_kept(digits: ImageDataModule) -> None:
    class Own(Classification):
        def configure_optimizers(self) -> Any:
            return SGD(self.network.parameters(), 0.2)

    task = Own(MLP, lambda weights: SGD(weights, 0.5), digits.spec)
    learn = build_learner(task, digits, {"accelerator": "cpu", "max_epochs": 1})
    assert learn.lr == 0.2
    with pytest.raises(UserError, match=r"is 0\.1, but Own\.configure_optimizers does not use"):
        learn.fit(1, valid=False, lr=0.1)


@pytest.mark.parametrize("training", [True, False], ids=["in train", "in val"])
def test_nothing_that_an_interrupted_fit_has_counted_is_in_the_next(
    digits: ImageDataModule, training: bool
) -> None:
    class Stop(Callback):
        def after_batch(self, learn: Learner) -> None:
            if learn.num == 1 and learn.training is training:
                raise KeyboardInterrupt

    found = []
    for interrupted in (True, False):
        torch.manual_seed(0)
        task = Classification(MLP, lambda weights: SGD(weights, 0.0), digits.spec)
        few = {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 4}
        learn = build_learner(task, digits, few)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                learn.fit(1, valid=False, cbs=[Stop()])
        learn.fit(1, valid=False)
        found.append(learn.metrics)
    one, other = found
    assert one.keys() == other.keys() >= {"train/loss", "val/loss"}
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def trained(
    loop: Loop, kind: type[Classification], optimizer: Any = SGD, **flags: Any
) -> Classification:
    """A task after two epochs of three batches of digits."""
    torch.manual_seed(0)
    data = ImageDataModule("digits", batch_size=64)
    task = kind(MLP, lambda weights: optimizer(weights, lr=0.1), data.spec)
    few: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 2, "limit_train_batches": 3} | flags
    if loop == "homemade":
        learner = build_learner(task, data, few)
        learner.fit(learner.n_epochs, valid=False)
        return task
    quiet_trainer(**few).fit(task, datamodule=data)
    return task


@functools.cache
def plain_weights() -> dict[str, Tensor]:
    """Those of a task that overrides nothing."""
    return trained("homemade", Classification).state_dict()


def assert_same_in_both_loops(kind: type[Classification], **flags: Any) -> None:
    one, other = (trained(loop, kind, **flags).state_dict() for loop in LOOPS)
    plain = plain_weights()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
    # What the task has of its own has changed something.
    assert any(not torch.equal(weight, plain[name]) for name, weight in one.items())


def halve(optimizer: Optimizer) -> StepLR:
    return StepLR(optimizer, step_size=1, gamma=0.5)


OPTIMIZERS: dict[str, Callable[[Optimizer], Any]] = {
    "an optimiser": lambda opt: opt,
    "a pair of lists": lambda opt: ([opt], [halve(opt)]),
    "a scheduler": lambda opt: {"optimizer": opt, "lr_scheduler": halve(opt)},
    "a scheduler by step": lambda opt: {
        "optimizer": opt,
        "lr_scheduler": {"scheduler": halve(opt), "interval": "step"},
    },
    "lists with one by step": lambda opt: (
        [opt],
        [{"scheduler": halve(opt), "interval": "step"}],
    ),
    "a scheduler every second step": lambda opt: {
        "optimizer": opt,
        "lr_scheduler": {"scheduler": halve(opt), "interval": "step", "frequency": 2},
    },
    "a plateau": lambda opt: {
        "optimizer": opt,
        "lr_scheduler": ReduceLROnPlateau(opt, mode="max", patience=0),
        "monitor": "val/loss",
    },
}


@pytest.mark.parametrize("answer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_tasks_own_optimiser_and_scheduler_train_alike_in_both_loops(
    answer: Callable[[Optimizer], Any],
) -> None:
    class Own(Classification):
        def configure_optimizers(self) -> Any:
            return answer(SGD(self.network.parameters(), 0.2, momentum=0.9))

    assert_same_in_both_loops(Own)


def two(task: Classification) -> tuple[Optimizer, Optimizer]:
    first, second = (SGD(task.network.parameters(), 0.1) for _ in range(2))
    return first, second


class Free(SGD):
    """Has the methods of schedule-free optimisers."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


NOT_OURS: dict[str, tuple[Callable[[Classification], Any], str]] = {
    "two optimisers": (two, "configure_optimizers gives 2 optimisers and 0 schedulers; the home"),
    "two schedulers": (
        lambda task: ([opt := two(task)[0]], [halve(opt), halve(opt)]),
        "configure_optimizers gives 1 optimisers and 2 schedulers",
    ),
    "a scheduler with a name": (
        lambda task: ([opt := two(task)[0]], [{"scheduler": halve(opt), "name": "rate"}]),
        "configure_optimizers: the homemade loop has no counterpart for name and strict of a sched",
    ),
    "a plateau by step": (
        lambda task: (
            [opt := two(task)[0]],
            [{"scheduler": ReduceLROnPlateau(opt), "interval": "step", "monitor": "train/loss"}],
        ),
        "model.schedule: the homemade loop steps a ReduceLROnPlateau after epochs, and here its",
    ),
    "a schedule-free one": (
        lambda task: Free(task.network.parameters()),
        "model.optimizer: Free has other weights for validation and checkpoints, and neither loop",
    ),
    "a closure": (
        lambda task: LBFGS(task.network.parameters()),
        "model.optimizer: LBFGS computes the loss several times a step by a closure.*; pass --loop",
    ),
}


@pytest.mark.parametrize(("answer", "message"), NOT_OURS.values(), ids=NOT_OURS.keys())
def test_an_optimiser_that_the_learner_does_not_support_is_refused(
    answer: Callable[[Classification], Any], message: str
) -> None:
    class Own(Classification):
        def configure_optimizers(self) -> Any:
            return answer(self)

    with pytest.raises(UserError, match=message):
        trained("homemade", Own)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_scheduler_of_another_optimiser_is_refused_by_both_loops(loop: Loop) -> None:
    class Own(Classification):
        def configure_optimizers(self) -> Any:
            one, other = two(self)
            return [one], [halve(other)]

    with pytest.raises(MisconfigurationException, match="with an optimizer that wasn't returned"):
        trained(loop, Own)


class Own(Classification):
    """Overrides all that trains a task, and keeps what was called."""

    called: ClassVar[set[str]] = set()

    def forward(self, x: Tensor) -> Tensor:
        """Twice the logits."""
        self.called.add("forward")
        return super().forward(x) * 2

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Black for white."""
        self.called.add("inputs")
        images, labels = super().inputs_and_targets(batch)
        return 1 - images, labels

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """More with each epoch and step, as they are counted by whatever trains it."""
        self.called.add("loss")
        assert self.trainer.max_epochs == 2
        assert self.trainer.training is self.training
        assert self.trainer.validating is not self.training
        assert not self.trainer.sanity_checking
        return super().loss(output, target) * (1 + self.current_epoch + self.global_step / 8)


def test_a_tasks_own_methods_train_alike_in_both_loops() -> None:
    for loop in LOOPS:
        Own.called.clear()
        trained(loop, Own)
        assert Own.called == {"forward", "inputs", "loss"}
    assert_same_in_both_loops(Own)


def test_a_tasks_own_metrics_are_alike_in_both_loops() -> None:
    class Own(Classification):
        def count(self, stage: str, output: Tensor, target: Tensor, loss: Tensor) -> None:
            super().count(stage, output, (target + 1) % 10, loss)

        def compute(self, stage: str) -> dict[str, Tensor]:
            return super().compute(stage) | {f"{stage}/one": torch.tensor(1.0)}

    one, other = (trained(loop, Own).last_metrics for loop in LOOPS)
    assert one.keys() == other.keys() > {"train/accuracy", "val/confusion"}
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", ["num_training_batches", "fit_loop", "strategy"])
def test_a_trainer_attribute_that_the_learner_lacks_is_refused_by_name(name: str) -> None:
    class Asks(Classification):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            getattr(self.trainer, name)
            return super().loss(output, target)

    message = (
        f"the task, its data or a callback uses trainer.{name}, which the homemade loop does not "
        "provide; pass --loop lightning"
    )
    with pytest.raises(UserError, match=message) as caught:
        trained("homemade", Asks)
    assert "\n" not in str(caught.value)


def hooked(name: str) -> type[Classification]:
    """A task that has the hook `name` of its own, and fails in it."""

    def hook(*_: Any, **__: Any) -> None:
        raise AssertionError(name)

    return type("Hooked", (Classification,), {name: hook})


@pytest.mark.parametrize(
    "name",
    [
        *("training_step", "validation_step", "on_train_batch_start", "on_before_optimizer_step"),
        *("configure_gradient_clipping", "optimizer_step", "lr_scheduler_step", "backward"),
        *("on_validation_epoch_end", "transfer_batch_to_device", "configure_model"),
    ],
)
def test_a_hook_that_only_a_trainer_calls_is_refused_by_name(name: str) -> None:
    message = f"Hooked overrides {name}, which the homemade loop does not call; override inputs_and"
    with pytest.raises(UserError, match=message):
        trained("homemade", hooked(name))


def test_a_hook_of_a_task_itself_and_optimising_by_hand_are_refused() -> None:
    class OnItself(Classification):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.on_train_batch_start = print  # type: ignore[assignment]

    class ByHand(Classification):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.automatic_optimization = False

    with pytest.raises(UserError, match="OnItself overrides on_train_batch_start, which the"):
        trained("homemade", OnItself)
    with pytest.raises(
        UserError, match=r"ByHand uses manual optimisation \(automatic_optimization is"
    ):
        trained("homemade", ByHand)
