"""The Trainer's flags: what no loop can have, and what the Learner has a counterpart for."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.learner import Callback, Learner
from twinloop.learner.callbacks import AnomalyCB
from twinloop.loops import lightning
from twinloop.loops.checks import OURS, check_flags, check_run
from twinloop.loops.flags import (
    HANDLED,
    SWITCHED_OFF,
    TRAINER_DEFAULTS,
    WITHOUT_EFFECT,
    Flags,
)
from twinloop.models import MLP
from twinloop.tasks import Classification, OneCycle, Plateau, TorchSchedule
from twinloop.tasks.schedule import Schedule

OTHER_VALUES: dict[str, Any] = {
    "min_epochs": 2,
    "min_steps": 5,
    "max_time": "00:00:01:00",
    "limit_predict_batches": 1,
    "benchmark": True,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "plugins": [],
    "sync_batchnorm": True,
    "reload_dataloaders_every_n_epochs": 1,
    "enable_autolog_hparams": False,
    "model_registry": "name",
    # Said to be off they are no more than the homemade loop does.
    "num_sanity_val_steps": 2,
    "enable_model_summary": True,
}
"""A value that is not the default, for every flag that has no counterpart."""


def test_every_flag_of_the_trainer_is_handled_or_refused() -> None:
    flags = set(inspect.signature(Trainer).parameters)
    assert flags == {*HANDLED, *WITHOUT_EFFECT, *OURS, *OTHER_VALUES}


@pytest.mark.parametrize(("name", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES.keys())
def test_a_flag_without_counterpart_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{name}: .*accumulate_grad_batches"):
        Flags.of({name: value})


@pytest.mark.parametrize("value", [False, 0, None])
def test_a_flag_may_switch_off_what_the_homemade_loop_never_does(value: Any) -> None:
    Flags.of(dict.fromkeys(SWITCHED_OFF, value))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"precision": "transformer-engine"}, "trainer.precision"),
        ({"accelerator": "tpu", "callbacks": []}, "trainer.accelerator is 'tpu'"),
        ({"devices": 2}, "torchrun --nproc_per_node 2"),
        ({"num_nodes": 2}, "torchrun --nnodes 2"),
        ({"strategy": "fsdp"}, "trainer.strategy is 'fsdp'"),
        ({"val_check_interval": "00:00:00:05"}, "trainer.val_check_interval is a time"),
        (
            {"callbacks": ModelCheckpoint()},
            r"ModelCheckpoint \(its .*\); it has counterparts for EarlyStop",
        ),
    ],
)
def test_a_value_without_counterpart_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = Flags.of(flags).device


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"barebones": True}, "trainer.barebones cannot be set, since a run leaves checkpoints, logs"),
    ({"max_epochs": 0}, "trainer.max_epochs is 0, so there is nothing to train; raise it"),
    ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0, so there is nothing to train"),
    ({"limit_test_batches": 0}, "trainer.limit_test_batches is 0, so there is nothing to report"),
    ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches is 0; it must be at least 1"),
    ({"gradient_clip_val": -0.5}, "trainer.gradient_clip_val is -0.5; it must be at least 0"),
    ({"val_check_interval": 0.0}, "trainer.val_check_interval is 0; it must be greater"),
    (
        {"precision": "16-mixed", "accelerator": "cpu"},
        "trainer.precision is 16-mixed, which needs a GPU; bf16-mixed does not",
    ),
    (
        {"callbacks": [StochasticWeightAveraging(0.1)]},
        "trainer.callbacks: StochasticWeightAveraging computes its average after the last "
        "checkpoint and validation; use EMAWeightAveraging, whose average is validated and saved",
    ),
]


@pytest.mark.parametrize(("flags", "message"), IMPOSSIBLE, ids=lambda value: str(value)[:30])
def test_a_flag_that_no_run_supports_is_refused(flags: dict[str, Any], message: str) -> None:
    for check in (check_flags, Flags.of):
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            check(flags)


def test_supported_flags_are_accepted() -> None:
    check_flags({})
    check_flags(TRAINER_DEFAULTS)
    check_flags({"logger": [], "barebones": False, "enable_checkpointing": True})
    check_flags({"max_epochs": -1, "max_steps": -1, "limit_train_batches": None})
    check_flags({"gradient_clip_val": 0, "log_every_n_steps": 0, "check_val_every_n_epoch": None})
    check_flags({"precision": "bf16-mixed", "accelerator": "cpu", "callbacks": EarlyStopping("x")})


def run_with(
    data: ImageDataModule,
    schedule: Schedule | None = None,
    kind: type[Classification] = Classification,
    **flags: Any,
) -> None:
    """Check a run of 22 batches of train and 2 of val."""
    task = kind(MLP, lambda weights: SGD(weights, 0.1), data.spec, schedule)
    check_run(TRAINER_DEFAULTS | flags, task, data)


def early(monitor: str = "val/loss", **options: Any) -> dict[str, Any]:
    return {"callbacks": [EarlyStopping(monitor, **options)]}


def rise(monitor: str, frequency: int = 1) -> TorchSchedule:
    return TorchSchedule(ReduceLROnPlateau, frequency=frequency, monitor=monitor)


LATE = (
    "model.schedule reads val/loss after every epoch, and the first is not validated; change "
    "trainer.check_val_every_n_epoch, trainer.limit_val_batches or data.val_size"
)
UNKNOWN = (
    "trainer.callbacks: EarlyStopping monitors 'val/acc', which is not measured; the metrics are: "
)
NEVER: list[tuple[Schedule | None, dict[str, Any], str]] = [
    (
        None,
        {"limit_train_batches": 0.01},
        "trainer.limit_train_batches is 0.01, and 0.01 of 22 batches is less than one; raise it",
    ),
    (
        None,
        {"limit_val_batches": 0.1},
        "trainer.limit_val_batches is 0.1, and 0.1 of 2 batches is less than one; raise it",
    ),
    (
        None,
        {"val_check_interval": 23},
        "trainer.val_check_interval is 23, and an epoch has 22 batches; lower it, or set "
        "trainer.check_val_every_n_epoch to null to count the batches of all epochs",
    ),
    (None, {"val_check_interval": 6, "limit_train_batches": 5}, "is 6, and an epoch has 5 batches"),
    (Plateau(), {"limit_val_batches": 0}, LATE),
    (
        OneCycle(),
        {"callbacks": BackboneFinetuning()},
        "trainer.callbacks: BackboneFinetuning adds a group of parameters, which a schedule does "
        "not allow; set model.schedule to null",
    ),
    (Plateau(), {"check_val_every_n_epoch": None, "val_check_interval": 23}, LATE),
    (
        rise("val/loss", 2),
        {"check_val_every_n_epoch": 3},
        "model.schedule reads val/loss after every 2 epochs, and the first are not validated",
    ),
    (
        rise("val/acc"),
        {},
        "model.schedule reads 'val/acc', which is not measured; the metrics are: train/loss, ",
    ),
    (
        None,
        early("val/acc"),
        f"{UNKNOWN}train/loss, train/accuracy, val/loss, val/accuracy",
    ),
    (
        None,
        early(check_on_train_epoch_end=True) | {"check_val_every_n_epoch": 2},
        "EarlyStopping monitors 'val/loss', which is not measured yet at the end of the first "
        "epoch, where it is checked; set check_on_train_epoch_end to false, or strict to false",
    ),
    (
        None,
        early("train/loss", check_on_train_epoch_end=False),
        "EarlyStopping monitors 'train/loss', which is not measured yet at the first validation, "
        "where it is checked; set check_on_train_epoch_end to true, or strict to false",
    ),
    (None, early("train/loss") | {"val_check_interval": 5}, "not measured yet at the first valid"),
]


@pytest.mark.parametrize(("schedule", "flags", "message"), NEVER, ids=lambda v: str(v)[:40])
def test_waiting_for_a_validation_or_metric_that_never_comes_is_refused(
    schedule: Schedule | None, flags: dict[str, Any], message: str, digits: ImageDataModule
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run_with(digits, schedule, **flags)


@pytest.mark.parametrize(
    ("schedule", "flags"),
    [
        (None, {}),
        (None, {"limit_val_batches": 0.0, "val_check_interval": 23}),
        (None, {"val_check_interval": 23, "check_val_every_n_epoch": None}),
        (Plateau(), {"check_val_every_n_epoch": None, "val_check_interval": 22}),
        (OneCycle(), {"limit_val_batches": 0}),
        (rise("val/accuracy", 2), {"check_val_every_n_epoch": 2}),
        (rise("train/loss"), {"limit_val_batches": 0}),
        (None, early("val/acc", strict=False)),
        (None, early("train/loss", check_on_train_epoch_end=False, strict=False)),
        (None, early("val/loss") | {"check_val_every_n_epoch": 2}),
        (None, early("val/loss") | {"check_val_every_n_epoch": None, "val_check_interval": 30}),
        (Plateau(), early("val/acc") | {"fast_dev_run": True}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_waiting_for_a_validation_or_metric_that_comes_is_accepted(
    schedule: Schedule | None, flags: dict[str, Any], digits: ImageDataModule
) -> None:
    run_with(digits, schedule, **flags)


def test_a_task_with_its_own_logging_may_be_watched_by_any_metric(digits: ImageDataModule) -> None:
    class LogsMore(Classification):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            self.log("val/acc", 0.0)

    run_with(digits, kind=LogsMore, **early("val/acc"))


def test_without_a_val_split_only_train_metrics_exist() -> None:
    data = ImageDataModule("digits", val_size=0)
    with pytest.raises(UserError, match=r"the metrics are: train/loss, train/accuracy$"):
        run_with(data, **early("val/loss"))
    with pytest.raises(UserError, match="the first is not validated"):
        run_with(data, Plateau())
    run_with(data, None, limit_val_batches=0.001)


def average(**options: Any) -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.9, **options)


class Sharp(SGD):
    """Has a method of SAM (Foret et al. 2021, arXiv:2010.01412)."""

    def first_step(self) -> None: ...


class Free(SGD):
    """Has the methods of schedule-free optimisers (Defazio et al. 2024, arXiv:2405.15682)."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


class Own(EarlyStopping):
    """One of a user's own, which may do anything."""


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (EarlyStopping("val/loss", verbose=True), "verbose of EarlyStopping"),
        (EarlyStopping("val/loss", log_rank_zero_only=True), "log_rank_zero_only of EarlyStopping"),
        (average(device="meta"), "device of EMAWeightAveraging"),
        (average(multi_avg_fn=print), "multi_avg_fn of EMAWeightAveraging"),
        (LearningRateFinder(), "LearningRateFinder (its on_fit_start); it has counterparts for"),
        (Own("val/loss"), "Own (its setup); it has counterparts for EarlyStopping and EMAWeight"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_option_of_a_callback_without_counterpart_is_refused(callback: Any, name: str) -> None:
    message = f"trainer.callbacks: the homemade loop has no counterpart for {name}"
    with pytest.raises(UserError, match=re.escape(message)):
        Flags.of({"accelerator": "cpu", "callbacks": [EarlyStopping("train/loss"), callback]})


class Misspelled(Callback):
    """Has a method that is nearly an event."""

    def after_bacth(self, learn: Learner) -> None: ...


class Predicts(Callback):
    """Has a verb."""

    def predict(self, learn: Learner) -> None: ...


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            Misspelled(),
            "TypeError: Misspelled.after_bacth is no event; did you mean 'after_batch'?",
        ),
        (Predicts(), "Predicts implements 'predict', as TrainCB does"),
    ],
)
def test_a_callback_of_the_learner_that_it_cannot_call_is_refused(
    callback: Callback, message: str
) -> None:
    with pytest.raises(UserError, match=f"^trainer.callbacks: {re.escape(message)}$"):
        Flags.of({"callbacks": [callback]})


def test_a_trainer_refuses_a_callback_of_the_learner_by_name() -> None:
    lightning.check_callbacks({"callbacks": [EarlyStopping("val/loss")]})
    with pytest.raises(
        UserError, match="AnomalyCB is a callback of the homemade loop; pass --loop"
    ):
        lightning.check_callbacks({"callbacks": AnomalyCB()})


def test_the_options_of_a_callback_with_a_counterpart_are_not_refused() -> None:
    everything: dict[str, Any] = {
        **{"min_delta": 0.1, "patience": 1, "mode": "max", "strict": False, "check_finite": False},
        **{"stopping_threshold": 1.0, "divergence_threshold": 0.0},
    }
    stop = EarlyStopping("val/loss", check_on_train_epoch_end=True, **everything)
    more = {"update_every_n_steps": 2, "update_starting_at_step": 3, "update_starting_at_epoch": 1}
    mean = average(device="cpu", use_buffers=False, **more)
    given = {"accelerator": "cpu", "callbacks": [stop, mean, average()]}
    assert Flags.of(given)["callbacks"] == [stop, mean, *given["callbacks"][2:]]


def test_flags_have_the_trainers_defaults_and_meanings() -> None:
    def found(*names: str, **given: Any) -> list[Any]:
        flags = Flags.of(given)
        return [flags[name] for name in names]

    limits = ("limit_train_batches", "limit_val_batches")
    assert found("max_epochs", "max_steps", *limits) == [1000, -1, 1.0, 1.0]
    assert found("max_epochs", "max_steps", max_steps=7) == [-1, 7]
    assert found("max_epochs", max_steps=7, max_epochs=2) == [2]
    assert found(*limits, overfit_batches=3, limit_val_batches=5) == [3, 3]
    short = found(*limits, "max_steps", "max_epochs", fast_dev_run=2, max_epochs=9, max_steps=5)
    assert short == [2, 2, 2, 1]
    more = ("val_check_interval", "check_val_every_n_epoch", "overfit_batches")
    given = {"val_check_interval": 7, "check_val_every_n_epoch": 3, "overfit_batches": 4}
    assert found(*more, fast_dev_run=True, **given) == [1.0, 1, 0.0]
    assert Flags.of({"accelerator": "cpu"}).device == torch.device("cpu")


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "mps"])
def test_the_gpu_that_lightning_takes_on_macos_is_refused(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match=f"{accelerator}', which is Apple's GPU on this machine"):
        Flags.of({"accelerator": accelerator})
    assert Flags.of({"accelerator": "cpu"}).device == torch.device("cpu")


class ByHand(Classification):
    """Steps its optimiser itself."""

    def on_fit_start(self) -> None:
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            Sharp,
            "Sharp needs two gradients of each batch (first_step, second_step), and both loops",
        ),
        (
            Free,
            "Free has other weights for validation and checkpoints, and neither loop calls its ",
        ),
        (partial(SGD, lr=-1.0), "ValueError: Invalid learning rate: -1.0"),
    ],
)
def test_an_optimiser_that_neither_loop_steps_is_refused_before_a_run(
    optimizer: Callable[..., Optimizer], message: str, digits: ImageDataModule
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(f'model.optimizer: {message}')}"):
        check_run(TRAINER_DEFAULTS, Classification(MLP, optimizer, digits.spec), digits)


def test_an_optimiser_that_a_user_steps_is_not_refused(digits: ImageDataModule) -> None:
    by_hand = ByHand(MLP, Sharp, digits.spec)
    by_hand.automatic_optimization = False
    check_run(TRAINER_DEFAULTS, by_hand, digits)
    check_run(TRAINER_DEFAULTS, ByHand(MLP, Free, digits.spec), digits)
    own = TRAINER_DEFAULTS | {"callbacks": [Own("val/loss")]}
    check_run(own, Classification(MLP, Free, digits.spec), digits)
