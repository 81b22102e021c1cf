"""The counters of Lightning's loops for the position of a Learner, as a Trainer would save them.

Lightning counts batches, steps and epochs as ready, started, processed and completed, in total and
in the current epoch (`lightning.pytorch.loops.progress`). With n batches of train behind it:

| saved                       | batches ready, processed | batches completed | epochs processed |
| --------------------------- | ------------------------ | ----------------- | ---------------- |
| after a batch in an epoch   | n                        | n - 1             | epoch            |
| for a validation after it   | n                        | n                 | epoch            |
| at the end of the epoch     | n                        | n                 | epoch + 1        |

A batch is completed once the Trainer's callbacks have returned, of which saving is one.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from lightning.pytorch import Trainer

from twinloop.learner import Learner
from twinloop.learner import callbacks as cbs

Count = dict[str, int]


@dataclass
class Validated:
    """Batches of validation: of all validations in this epoch, and of the latest one."""

    total: int = 0
    current: int = 0

    def progress(self, *, interrupted: bool) -> dict[str, Any]:
        """Lightning's counters; an interrupted validation counts as one in its first batch."""
        total, current = self.total, self.current
        if interrupted:
            total, current = total - current, 0
        return {
            "total": _count(total + interrupted, total, processed=total),
            "current": _count(current + interrupted, current, processed=current),
            "is_last_batch": current > 0,
        }


def loop_counters(
    learn: Learner, validated: Validated, accumulate: int, *, completed: bool, interrupted: bool
) -> dict[str, Any]:
    """The part `loops` of a Trainer's checkpoint.

    Args:
        learn: The Learner, in an epoch or after its last batch.
        validated: The batches of validation so far.
        accumulate: Batches per optimiser step.
        completed: Whether the last batch counts as completed: see above.
        interrupted: Whether a validation is interrupted.
    """
    at_end = learn.num == learn.n_batches or learn.stopping
    completed = completed or at_end or interrupted
    batches = learn.num + (not at_end)  # inside an epoch this batch counts as processed
    total = learn.epoch * learn.n_batches + batches
    steps = _steps(learn, accumulate)
    # In an incomplete window of accumulated batches, gradients were zeroed for the next step.
    open_window = batches % accumulate > 0 and batches < learn.n_batches
    stepped = learn.steps if at_end or open_window else learn.steps - 1
    loops = deepcopy(_idle_loops())
    loops["fit_loop"] |= {
        "state_dict": {"combined_loader": [learn.dls.train.state_dict()]},
        "epoch_loop.state_dict": {"_batches_that_stepped": stepped},
        "epoch_loop.batch_progress": {
            "total": _count(total, total - (not completed), processed=total),
            "current": _count(batches, batches - (not completed), processed=batches),
            "is_last_batch": batches == learn.n_batches,
        },
        "epoch_loop.scheduler_progress": _scheduler_steps(learn, batches, accumulate),
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": steps, "zero_grad": _zero_grads(steps, open_window)}
        },
        "epoch_loop.val_loop.batch_progress": validated.progress(interrupted=interrupted),
        "epoch_progress": {
            name: _count(learn.epoch + 1, learn.epoch, processed=learn.epoch + at_end)
            for name in ("total", "current")
        },
    }
    return loops


def _steps(learn: Learner, accumulate: int) -> dict[str, Count]:
    current = learn.steps - learn.epoch * math.ceil(learn.n_batches / accumulate)
    return {"total": _count(learn.steps, learn.steps), "current": _count(current, current)}


def _zero_grads(steps: dict[str, Count], open_window: bool) -> dict[str, Count]:
    return {
        name: {stage: n + open_window for stage, n in (count | {"started": count["ready"]}).items()}
        for name, count in steps.items()
    }


def _scheduler_steps(learn: Learner, batches: int, accumulate: int) -> dict[str, Count]:
    """How often the scheduler was stepped: by batches, by epochs, or after the epoch is saved."""
    total = current = 0
    for cb in learn.cbs:
        if isinstance(cb, cbs.BatchSchedCB):
            in_epoch = [
                n
                for n in range(cb.every, learn.n_batches + 1, cb.every)
                if n % accumulate == 0 or n == learn.n_batches
            ]
            current = sum(n <= batches for n in in_epoch)
            total = learn.epoch * len(in_epoch) + current
        elif isinstance(cb, cbs.EpochSchedCB):
            current = int(batches == learn.n_batches and (learn.epoch + 1) % cb.every == 0)
            total = learn.epoch // cb.every + current
        elif isinstance(cb, cbs.PlateauSchedCB):
            total = learn.epoch // cb.every
    return {"total": _count(total, total), "current": _count(current, current)}


@cache
def _idle_loops() -> dict[str, Any]:
    """The counters of a Trainer before it starts, for those that a fit does not change."""
    idle = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[],
    )
    return {
        name: getattr(idle, name).state_dict()
        for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    }


def _count(ready: int, completed: int, processed: int | None = None) -> Count:
    """A count by Lightning's names; whatever is ready was started too."""
    count = {"ready": ready, "completed": completed}
    return count if processed is None else count | {"started": ready, "processed": processed}
