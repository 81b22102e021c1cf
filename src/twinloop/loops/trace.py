"""The order of Lightning's hooks and of the Learner's events."""

import time
from functools import partial
from typing import Any

from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import Trainer

from twinloop.learner.callbacks.trace import Traced

COUNTERPARTS: dict[str, str | None] = {
    "on_fit_start": None,  # the Learner has no setup before its first event
    "on_train_start": "before_fit",
    "on_train_epoch_start": "train before_epoch",
    "on_train_batch_start": "train before_batch",
    "on_before_zero_grad": None,  # the Learner resets gradients after its step, not before
    "on_before_backward": "train after_loss",
    "on_after_backward": "train after_backward",
    "on_before_optimizer_step": "train before_step",
    "on_train_batch_end": "train after_batch",
    "on_validation_start": None,  # one hook for all loaders of validation; there is one
    "on_validation_epoch_start": "val before_epoch",
    "on_validation_batch_start": "val before_batch",
    "on_validation_batch_end": "val after_batch",
    "on_validation_epoch_end": "val after_epoch",
    "on_validation_end": "val cleanup_epoch",
    "on_train_epoch_end": "train after_epoch",
    "on_train_end": "after_fit",
    "on_fit_end": "cleanup_fit",
    "on_exception": "cleanup_fit",
}
"""Each of Lightning's hooks in a fit, and the Learner's event at the same point."""


class HookTrace(LightningCallback):
    """Records every hook of a fit in `hooks`, and its time in `times`, as `TraceCB` does."""

    def __init__(self, hooks: list[Traced] | None = None, times: list[float] | None = None) -> None:
        self.hooks = hooks if hooks is not None else []
        self.times = times if times is not None else []
        for hook in COUNTERPARTS:
            setattr(self, hook, partial(self._record, hook))

    def _record(self, hook: str, trainer: Trainer, *_: Any) -> None:
        self.times.append(time.perf_counter())
        stage = "val" if trainer.validating else "train"
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        self.hooks.append(Traced(hook, stage, trainer.current_epoch, batches.ready - 1))


def translated(hooks: list[Traced]) -> list[str]:
    """The Learner's events at the points of Lightning's `hooks`."""
    return [event for hook in hooks if (event := COUNTERPARTS[hook.event]) is not None]


def comparable(events: list[Traced]) -> list[str]:
    """Those of the Learner's `events` that have a hook as counterpart, by the names in it.

    Lightning has no hook for a step that is cancelled, as in a batch that only accumulates.
    """
    known = set(COUNTERPARTS.values())
    names = [
        event.event if event.event.endswith("_fit") else f"{event.stage} {event.event}"
        for event in _without_cancelled_steps(events)
    ]
    return [name for name in names if name in known]


def _without_cancelled_steps(events: list[Traced]) -> list[Traced]:
    """Drop each `before_step` of a step that a callback has cancelled: no `after_step` follows."""
    kept: list[Traced] = []
    begun: int | None = None
    for event in events:
        if event.event == "before_step":
            begun = len(kept)
        elif event.event == "after_step":
            begun = None
        elif event.event == "cleanup_step" and begun is not None:
            del kept[begun]
            begun = None
        kept.append(event)
    return kept
