"""Train an experiment by Lightning's Trainer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.plugins import CheckpointIO

from twinloop.data.protocol import Data
from twinloop.errors import UserError
from twinloop.loops.checkpoint import RandomState
from twinloop.loops.checks import callbacks_of
from twinloop.loops.finders import Found, has_finder, without_finders
from twinloop.loops.finite import FiniteLoss
from twinloop.loops.record import KeepRecord
from twinloop.loops.report import Board, EpochProgress, KeepHistory
from twinloop.loops.save import SaveCheckpoints
from twinloop.loops.stop import SaveAndStop
from twinloop.loops.trace import HookTrace
from twinloop.loops.watch import WatchEpochs
from twinloop.processes import is_first
from twinloop.runs.checkpoint import AtomicCheckpointIO
from twinloop.runs.run import Run
from twinloop.tasks import Task


def train(
    task: Task,
    data: Data,
    flags: Mapping[str, Any],
    run: Run | None,
    resume: Path | None,
) -> None:
    """Train by a Trainer with these flags, resumed from the checkpoint `resume` if any.

    Without a `run` nothing is kept, as for `fast_dev_run`.
    """
    found = [Found(task, data, resumed=resume is not None)] if has_finder(flags) else []
    if resume:
        flags = without_finders(flags)
    if run:
        trainer = _keeping_trainer(flags, data, run, *found)
    else:
        trainer = bare_trainer(flags, FiniteLoss())
    # With max_steps Lightning treats every checkpoint as one from inside an epoch.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    module: Any = data  # a LightningDataModule, as every Data is
    trainer.fit(task, datamodule=module, ckpt_path=resume, weights_only=True)


def trainer_callbacks(run: Run, data: Data) -> list[Callback]:
    """The callbacks that keep a Trainer's run in its folder.

    Lightning lets only the first of several processes write.
    """
    callbacks: list[Callback] = [
        RandomState(),
        FiniteLoss(),
        KeepHistory(run.history),
    ]
    if run.loggers:
        callbacks.append(LearningRateMonitor(logging_interval="step"))
    if is_first():
        progress = EpochProgress(run.history, run.bar)
        callbacks += [progress, Board(run, data)]
    callbacks += [SaveCheckpoints(run.saver), SaveAndStop(run.signals, run.saver.last_path)]
    return [*callbacks, WatchEpochs(run.history, run.watch)] if run.watch else callbacks


def check_callbacks(flags: Mapping[str, Any]) -> None:
    """Refuse a callback that a Trainer cannot call."""
    for callback in callbacks_of(flags):
        if not isinstance(callback, Callback):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} is a callback of the homemade loop; "
                "pass --loop homemade"
            )


def bare_trainer(flags: Mapping[str, Any], *callbacks: Callback) -> Trainer:
    """A Trainer with the callbacks of its flags and `callbacks`, which writes no files.

    Raises:
        MisconfigurationException: invalid flags.
    """
    savers = any(isinstance(callback, Checkpoint) for callback in callbacks_of(flags))
    return _trainer(flags, callbacks, enable_checkpointing=savers, logger=False)


def has_own_bar(flags: Mapping[str, Any]) -> bool:
    """Whether the flags have a progress bar, which replaces ours."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks_of(flags))


def _keeping_trainer(flags: Mapping[str, Any], data: Data, run: Run, *found: Callback) -> Trainer:
    """A Trainer with the callbacks and plugins that keep `run`."""
    callbacks = [*found, *trainer_callbacks(run, data)]
    if run.timings:
        callbacks.insert(0, HookTrace(run.timings.events, run.timings.times))
    if run.record:
        callbacks.append(KeepRecord(run.record))
    given = flags["plugins"] or []
    plugins = list(given) if isinstance(given, list | tuple) else [given]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    without_val = {} if data.sizes["val"] else {"limit_val_batches": 0}
    ours = {"logger": run.loggers, "plugins": plugins, "default_root_dir": run.folder}
    return _trainer(flags, callbacks, **ours, **without_val)


def _trainer(flags: Mapping[str, Any], callbacks: Sequence[Callback], **ours: Any) -> Trainer:
    """A Trainer with `flags`, overridden by `ours`, and without Lightning's own bar."""
    if not has_own_bar(flags):
        ours["enable_progress_bar"] = False
    theirs = [callback for callback in callbacks_of(flags) if isinstance(callback, Callback)]
    return Trainer(**{**flags, **ours, "callbacks": [*theirs, *callbacks]})
