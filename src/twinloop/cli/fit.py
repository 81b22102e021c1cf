"""`python -m twinloop fit`: train an experiment by either loop."""

import json
import math
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed

from twinloop.cli.loggers import loggers_of
from twinloop.cli.parser import Experiment
from twinloop.cli.seeds import fit_seeds
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.loops import homemade, lightning
from twinloop.loops.checks import check_flags, check_run
from twinloop.loops.flags import Flags, check_callbacks
from twinloop.loops.homemade import check_task
from twinloop.processes import is_first, peer_lost, world_size
from twinloop.runs import results
from twinloop.runs.checkpoint import check_fits, read_checkpoint, resume_errors
from twinloop.runs.folder import checkpoint_of
from twinloop.runs.history import History, Pruned, Watch
from twinloop.runs.last_batch import check_last_batch
from twinloop.runs.lock import lock_run
from twinloop.runs.record import Record
from twinloop.runs.repository import Repository, find_repository
from twinloop.runs.run import Run, run_folder
from twinloop.runs.saver import Saver
from twinloop.runs.settings import (
    check_data,
    check_settings,
    flat_settings,
    load_weights,
    varied,
)
from twinloop.runs.stop import Stopped, StoppedAtOnce, StopSignals
from twinloop.runs.summary import noting_error
from twinloop.runs.timings import EventTimings, write_timings

TRAIN = {"lightning": lightning.train, "homemade": homemade.train}


def main(args: list[str], watch: Watch | None = None) -> int:
    """Train, then evaluate the best weights once on test, and write the results.

    `watch` is shown each epoch, if it is given.

    Raises:
        UserError: an experiment that cannot be trained; nothing is written.
        Stopped: a signal has stopped the run, which is saved.
        Pruned: `watch` has ended the run, which is saved.
    """
    experiment = Experiment(args)
    several = experiment.config.seeds > 1
    resume = None if several else experiment.checkpoint(default=None)
    with experiment.user_errors():
        trainer = check(experiment, resume)
    if several:
        return fit_seeds(experiment, args, max(trainer.world_size, world_size()), fit_in)
    if experiment.flags["fast_dev_run"]:
        train(experiment, None, resume)
        return 0
    where = experiment.logs, experiment.name, experiment.data.spec
    requested = experiment.config.run_folder
    with run_folder(*where, requested=requested, resumed=resume) as folder:
        run = open_run(experiment, folder, args, watch)
        with noting_error(folder, (Stopped, Pruned)), run.logging():
            train(experiment, run, resume)
            if run.signals.received:
                raise Stopped(run.signals.received, "after the last epoch", run.saver.last_path)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            if is_first():
                finish_run(experiment, run, trainer, resume)
    return 0


def fit_in(folder: Path, args: list[str], watch: Watch | None = None) -> dict[str, Any]:
    """Fit in `folder`, resume what was interrupted there, or read what is finished: the results.

    Raises:
        UserError: another process trains there; and what `main` raises.
    """
    results, last = folder / "results.json", folder / "checkpoints" / "last.ckpt"
    if folder.is_dir() and not results.is_file():
        lock_run(folder).release()
        if not last.is_file():
            shutil.rmtree(folder)
    if not results.is_file():
        resume = str(last) if last.is_file() else ""
        main([*args, f"--run_folder={folder}", f"--ckpt_path={resume}"], watch)
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def check(experiment: Experiment, resume: Path | None) -> Trainer:
    """Refuse an invalid experiment before anything is written, by the same errors for both loops.

    Returns:
        A Trainer that trains nothing, for the number of processes and the precision of both loops.

    Raises:
        UserError: invalid flags, task or data, or a setting that differs from those of `resume`.
    """
    task, flags = experiment.task, experiment.flags
    if resume:
        _load_resumed(experiment, resume)
    check_flags(flags)
    is_homemade = experiment.config.loop == "homemade"
    (check_callbacks if is_homemade else lightning.check_callbacks)(flags)
    trainer = lightning.bare_trainer(flags)
    if is_homemade:
        Flags.of(flags)
        check_task(task)
    # Lightning's own launcher starts the other processes later.
    processes = max(trainer.world_size, world_size())
    check_run(flags, task, experiment.data, processes)
    steps = flags["max_steps"] * flags["accumulate_grad_batches"]
    if isinstance(experiment.data, ImageDataModule):
        check_last_batch(
            task,
            experiment.data,
            limit=flags["overfit_batches"] or flags["limit_train_batches"],
            max_batches=int(flags["fast_dev_run"]) or (math.inf if steps < 0 else steps),
            processes=processes,
        )
    _load_weights(experiment, resume)
    return trainer


def _load_resumed(experiment: Experiment, resume: Path) -> None:
    """Load the weights of the checkpoint `resume`, if it is one of a run like this."""
    checkpoint, task = read_checkpoint(resume), experiment.task
    if "loops" not in checkpoint:
        raise UserError(
            f"{resume}: has no state of training to resume; begin a new run with --weights {resume}"
        )
    check_data(checkpoint, task.spec, resume)
    check_settings(checkpoint, experiment.settings, resume)
    check_fits(checkpoint, task, resume)
    task.load_state_dict(checkpoint["state_dict"])


def _load_weights(experiment: Experiment, resume: Path | None) -> None:
    """Load the checkpoint of `--weights`, as far as it fits."""
    weights = experiment.config.weights
    if weights and resume:
        raise UserError("--weights starts a new run and --ckpt_path resumes one; pass only one")
    if weights:
        path = checkpoint_of(weights)
        line = load_weights(experiment.task, read_checkpoint(path), path)
        if is_first():
            print(line, flush=True)


def open_run(experiment: Experiment, folder: Path, args: list[str], watch: Watch | None) -> Run:
    """Make the run in `folder`, by the options `args`."""
    flags, config, task = experiment.flags, experiment.config, experiment.task
    limit = flags["overfit_batches"] or flags["limit_val_batches"]
    validates = bool(experiment.data.sizes["val"]) and limit != 0
    monitor = task.monitor if validates else None
    summary = _summary(experiment, args)
    saver = Saver(folder, monitor, task.mode, experiment.settings, experiment.as_yaml(), summary)
    repository = find_repository() if is_first() else Repository()
    if is_first():
        repository.write(folder)
    quiet = lightning.has_own_bar(flags) or flags["enable_progress_bar"] is False
    return Run(
        folder,
        saver,
        History(config.loop, str(config.weights) if config.weights else None),
        StopSignals(),
        loggers_of(experiment, folder),
        repository,
        timings=EventTimings() if config.record != "no" else None,
        record=Record() if config.record == "all" else None,
        watch=watch,
        bar=False if quiet else None,
    )


def _summary(experiment: Experiment, args: list[str]) -> dict[str, Any]:
    """What is known of a run when it begins, for run.json."""
    settings = varied(experiment.settings)
    labels = ("experiment", "loop", "tags", "notes")
    others = dict(flat_settings(experiment.settings))
    return {
        **{name: experiment.settings.get(name) for name in labels},
        "data": experiment.task.spec.name,
        "command": shlex.join(["twinloop", "fit", *args]),
        "monitor": experiment.task.monitor,
        "modes": experiment.task.modes,
        "settings": settings,
        "other_settings": {key: others[key] for key in others if key not in settings},
    }


def train(experiment: Experiment, run: Run | None, resume: Path | None) -> None:
    """Train by the experiment's loop; signals stop it if there is a `run`."""
    task, data, loop = experiment.task, experiment.data, experiment.config.loop
    if is_first():
        sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
        precision = experiment.flags["precision"]
        how = f" in {precision}" if "bf16" in str(precision) else ""
        print(f"{experiment.name} on {task.spec.name}{how}, {loop} loop: {sizes}", flush=True)
    if experiment.config.compile != "no":
        task.compile(mode=experiment.config.compile)
    timing = run.timings.timing(task.network) if run and run.timings else nullcontext()
    with run.signals if run else nullcontext(), timing, resume_errors(resume):
        try:
            TRAIN[loop](task, data, experiment.flags, run, resume)
        except Exception as error:
            # Another process has ended first on a signal that this one has received too.
            if run and run.signals.received and peer_lost(error):
                raise StoppedAtOnce(run.signals.received) from error
            raise


def finish_run(experiment: Experiment, run: Run, trainer: Trainer, resume: Path | None) -> None:
    """Evaluate the best weights on val and test, and write the results of the run.

    Raises:
        UserError: nothing was trained.
    """
    if run.folder.is_dir() and not run.saver.last_path.exists():
        raise UserError(
            f"{resume}: nothing is left to train up to trainer.max_epochs or max_steps; raise "
            "them, or evaluate the checkpoint with `test`"
        )
    if run.timings:
        write_timings(run.folder, run.timings, run.record)
    limits = {stage: experiment.flags[f"limit_{stage}_batches"] for stage in ("val", "test")}
    context = trainer.precision_plugin.forward_context
    results.write_results(run, experiment.name, experiment.task, experiment.data, limits, context)
