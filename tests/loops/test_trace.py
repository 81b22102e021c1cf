"""The order of hooks and events: Lightning's whole list, the Learner's, and the way between."""

import contextlib
from typing import Any

import torch
from lightning.pytorch import Callback as LightningCallback
from torch.optim import SGD

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.learner import (
    Callback,
    CancelEpochException,
    Learner,
)
from twinloop.learner.callbacks import TraceCB
from twinloop.learner.callbacks.trace import Traced
from twinloop.loops.homemade import build_learner
from twinloop.loops.trace import COUNTERPARTS, HookTrace, comparable, translated
from twinloop.models import MLP
from twinloop.tasks import Classification, Task

FLAGS: dict[str, Any] = {"limit_train_batches": 2, "limit_val_batches": 1, "accelerator": "cpu"}

BATCH_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_train_batch_end"),
)
VALIDATION_HOOKS = (
    *("on_validation_start", "on_validation_epoch_start", "on_validation_batch_start"),
    *("on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"),
)
EPOCH_HOOKS = (
    *("on_train_epoch_start", *BATCH_HOOKS, *BATCH_HOOKS),
    *(*VALIDATION_HOOKS, "on_train_epoch_end"),
)
FORWARD = ("before_batch", "after_predict", "after_loss")
STEP = ("before_step", "after_step", "cleanup_step")
BATCH = (*FORWARD, "after_backward", *STEP, "after_batch")
VALIDATION = ("before_epoch", *FORWARD, "after_batch", "cleanup_batch", "after_epoch")
EPOCH = (
    *("before_epoch", *BATCH, "cleanup_batch", *BATCH),
    *(*VALIDATION, "cleanup_epoch", "cleanup_batch"),
    *("after_epoch", "cleanup_epoch"),
)


def task(digits: ImageDataModule) -> Task:
    torch.manual_seed(0)
    return Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)


def lightning_hooks(
    digits: ImageDataModule, epochs: int, *extra: LightningCallback
) -> list[Traced]:
    trace = HookTrace()
    trainer = quiet_trainer(**FLAGS, max_epochs=epochs, callbacks=[trace, *extra])
    with contextlib.suppress(ArithmeticError):
        trainer.fit(task(digits), datamodule=digits)
    return trace.hooks


def learner_events(digits: ImageDataModule, epochs: int, *extra: Callback) -> list[Traced]:
    trace = TraceCB()
    learn = build_learner(task(digits), digits, FLAGS | {"max_epochs": epochs}, [trace, *extra])
    with contextlib.suppress(ArithmeticError):
        learn.fit(learn.n_epochs, valid=False)
    return trace.events


def names(traced: list[Traced]) -> list[str]:
    return [event.event for event in traced]


def test_hooks_and_events_of_two_epochs_correspond(digits: ImageDataModule) -> None:
    hooks, events = lightning_hooks(digits, 2), learner_events(digits, 2)
    start, end = ("on_fit_start", "on_train_start"), ("on_train_end", "on_fit_end")
    assert names(hooks) == [*start, *EPOCH_HOOKS, *EPOCH_HOOKS, *end]
    assert names(events) == ["before_fit", *EPOCH, *EPOCH, "after_fit", "cleanup_fit"]
    assert translated(hooks) == comparable(events)
    # Every hook that was called is in the mapping, and the mapping has no hook that never is.
    assert set(names(hooks)) == set(COUNTERPARTS) - {"on_exception"}


def test_hooks_and_events_after_an_error_correspond(digits: ImageDataModule) -> None:
    class Fails(LightningCallback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise ArithmeticError

    class FailsCB(Callback):
        def before_batch(self, learn: Learner) -> None:
            raise ArithmeticError

    hooks, events = lightning_hooks(digits, 2, Fails()), learner_events(digits, 2, FailsCB())
    assert names(hooks) == [
        *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
        "on_exception",
    ]
    assert names(events) == [
        *("before_fit", "before_epoch", "before_batch"),
        *("cleanup_batch", "cleanup_epoch", "cleanup_fit"),
    ]
    assert translated(hooks) == comparable(events)


def test_a_skipped_epoch_is_closed_by_lightning_and_cancelled_by_the_learner(
    digits: ImageDataModule,
) -> None:
    class Skips(Classification):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
            return -1

    cut = Skips(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    trace = HookTrace()
    quiet_trainer(**FLAGS, max_epochs=1, callbacks=[trace]).fit(cut, datamodule=digits)
    assert names(trace.hooks) == [
        *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
        *("on_train_epoch_end", "on_train_end", "on_fit_end"),
    ]

    class Cancels(Callback):
        def before_batch(self, learn: Learner) -> None:
            raise CancelEpochException

    events = learner_events(digits, 1, Cancels())
    assert names(events) == [
        *("before_fit", "before_epoch", "before_batch", "cleanup_batch", "cleanup_epoch"),
        *("after_fit", "cleanup_fit"),
    ]
    # Lightning closes the epoch as if it had been whole; a cancelled one has no after_epoch.
    assert [name for name in translated(trace.hooks) if name != "train after_epoch"] == comparable(
        events
    )
