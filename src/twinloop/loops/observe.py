"""Call a user's Lightning callback while the Learner trains, if it has all of its hooks."""

from typing import Any

from lightning.pytorch import Callback as LightningCallback

from twinloop.learner import Callback, Learner, Order
from twinloop.learner import callbacks as cbs
from twinloop.tasks import Task

HOOKS = (
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end"),
    *("on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start", "on_train_batch_end"),
    *("on_validation_start", "on_validation_end"),
    *("on_validation_epoch_start", "on_validation_epoch_end"),
    *("on_validation_batch_start", "on_validation_batch_end"),
    *("on_after_backward", "on_before_optimizer_step", "state_dict", "load_state_dict"),
)
"""The methods that a callback may override to be called in the homemade loop too."""
ELSEWHERE = ("__", "on_test_", "on_predict_", "on_sanity_")
"""Methods that are not called while either loop trains."""


def missing_hooks(callback: LightningCallback) -> list[str]:
    """The hooks of a callback that the Learner has no event for, by name.

    All those of Lightning's own callbacks, which may set what a Learner would not read.
    """
    kind = type(callback)
    hooks = [
        name
        for name, method in vars(LightningCallback).items()
        if callable(method) and (name in vars(callback) or getattr(kind, name) is not method)
    ]
    own = not kind.__module__.startswith("lightning.")
    known = HOOKS if own else ()
    return [name for name in hooks if not name.startswith(ELSEWHERE) and name not in known]


class ObserverCB(Callback):
    """Calls the hooks of a Lightning callback when a Trainer would, with the task's `trainer`."""

    order = Order.RESUME + 1

    def __init__(self, callback: LightningCallback, task: Task) -> None:
        self.callback, self.task = callback, task
        vars(callback).update(log=task.log, log_dict=task.log_dict)  # as a Trainer does

    @property
    def state_key(self) -> str:
        return self.callback.state_key

    @property
    def trainer(self) -> Any:
        """The stand-in for a Trainer that the task has in the homemade loop."""
        return self.task.trainer

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook of the callback with what a Trainer passes first, and `args`."""
        getattr(self.callback, hook)(self.trainer, self.task, *args)

    def before_fit(self, learn: Learner) -> None:
        self.call("on_fit_start")
        self.call("on_train_start")

    def before_epoch(self, learn: Learner) -> None:
        """Start a pass; the rest of an epoch that is resumed starts none."""
        if not learn.training:
            self.call("on_validation_start")
            self.call("on_validation_epoch_start")
        elif not learn.num:
            self.call("on_train_epoch_start")

    def before_batch(self, learn: Learner) -> None:
        stage = "train" if learn.training else "validation"
        self.call(f"on_{stage}_batch_start", self.trainer.batch, learn.num)

    def after_backward(self, learn: Learner) -> None:
        self.call("on_after_backward")

    def before_step(self, learn: Learner) -> None:
        self.call("on_before_optimizer_step", learn.opt)

    def after_batch(self, learn: Learner) -> None:
        stage, loss = ("train" if learn.training else "validation"), learn.loss.detach()
        outputs = {"loss": loss} if learn.training else loss
        self.call(f"on_{stage}_batch_end", outputs, self.trainer.batch, learn.num)

    def after_epoch(self, learn: Learner) -> None:
        if not learn.training:
            self.call("on_validation_end")

    def after_fit(self, learn: Learner) -> None:
        self.call("on_train_end")
        self.call("on_fit_end")

    def state_dict(self) -> dict[str, Any]:
        return self.callback.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.callback.load_state_dict(state)


class ObserveEpochEndCB(Callback):
    """Calls the hooks that a Trainer calls before the metrics of the pass are known."""

    order = cbs.MetricsCB.order - 1

    def __init__(self, observer: ObserverCB) -> None:
        self.observer = observer

    def after_epoch(self, learn: Learner) -> None:
        stage = "train" if learn.training else "validation"
        self.observer.call(f"on_{stage}_epoch_end")
