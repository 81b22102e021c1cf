"""The cost of the loops beside a hand-written one, all with the same batches and metrics.

The unit is a whole fit: training, validation, set-up and tear-down.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.pairs import Target, row
from benchmarks.race import Contestant, race
from benchmarks.work import Work
from twinloop.loops.flags import Flags
from twinloop.loops.homemade import build_learner, learner_callbacks
from twinloop.loops.lightning import trainer_callbacks
from twinloop.loops.report import Board, BoardCB
from twinloop.runs.board import RunLogger
from twinloop.runs.checkpoint import AtomicCheckpointIO
from twinloop.runs.history import History
from twinloop.runs.run import Run
from twinloop.runs.saver import Saver
from twinloop.runs.stop import StopSignals
from twinloop.tasks import Task

Fit = Callable[[], object]
HAND = "loop by hand"
BAREBONES = "Lightning, barebones"
LENGTHS = {"lesson-classifier": (5, 10**9), "autoencoder": (1, 24)}
"""Epochs, and batches per epoch: the whole small experiment, and about 5 seconds of the other."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """For both networks, the Learner and Lightning beside a hand-written loop and barebones."""
    found = []
    for experiment, (epochs, limit) in LENGTHS.items():
        work = Work(experiment, source, device, epochs=epochs, limit=limit)
        times = race(work, CONTESTANTS, rounds)
        pairs = (
            ("Learner, metrics", HAND, None),
            ("Learner, all features", HAND, Target(1.03)),
            ("Lightning, all features", HAND, Target(1.10)),
            ("Lightning, as in experiments", HAND, Target(1.10)),
            ("Lightning, as in experiments", BAREBONES, Target(1.08)),
            (BAREBONES, HAND, None),
            ("Learner, as in experiments", HAND, None),
        )
        found += [row(times, *pair, experiment=experiment) for pair in pairs]
    return found


@contextmanager
def by_hand(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """A loop without a framework."""
    train, val = work.data.train_batches(), work.data.val_dataloader()
    optimizer, scheduler = task.optimizer_and_scheduler(work.steps, work.epochs)
    assert scheduler is not None
    schedule = scheduler["scheduler"]
    several = distributed.is_initialized()
    network = DistributedDataParallel(task.network) if several else task.network

    def inputs_and_targets(batch: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
        images = batch[0].to(work.device).float().div_(255)
        return images, images if work.is_autoencoder else batch[1].to(work.device)

    def fit() -> None:
        for epoch in range(work.epochs):
            train.set_epoch(epoch)
            task.train()
            for batch in islice(train, work.limits["train"]):
                inputs, targets = inputs_and_targets(batch)
                outputs = network(inputs)
                loss = task.loss(outputs, targets)
                task.count("train", outputs, targets, loss)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            task.eval()
            with torch.no_grad():
                for batch in islice(val, work.limits["val"]):
                    inputs, targets = inputs_and_targets(batch)
                    outputs = network(inputs)
                    task.count("val", outputs, targets, task.loss(outputs, targets))
            numbers = task.compute("train") | task.compute("val")
            print(epoch, {name: float(number) for name, number in numbers.items()})

    yield fit


def flags(work: Work) -> dict[str, Any]:
    """The Trainer's flags for the work."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return {
        "accelerator": {"cuda": "gpu"}.get(work.device.type, work.device.type),
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "max_epochs": work.epochs,
        "limit_train_batches": work.limits["train"],
        "limit_val_batches": work.limits["val"],
    }


@contextmanager
def learner_with_metrics(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """The Learner, with metrics only."""
    learn = build_learner(task, work.data, flags(work))
    yield lambda: learn.fit(learn.n_epochs, valid=False)


def _run(work: Work, task: Task, folder: Path, loop: str) -> Run:
    saver = Saver(folder, task.monitor, task.mode, {"experiment": work.experiment}, "")
    return Run(folder, saver, History(loop), StopSignals(), [RunLogger(folder)])


@contextmanager
def _learner(work: Work, task: Task, folder: Path, *, board: bool) -> Iterator[Fit]:
    run = _run(work, task, folder, "homemade")
    wanted = Flags.of(flags(work) | {"log_every_n_steps": 10, "logger": run.loggers})
    with run.logging():
        extra = learner_callbacks(run, task, work.data, wanted, checkpoint=None)
        kept = [cb for cb in extra if board or not isinstance(cb, BoardCB)]
        learn = build_learner(task, work.data, wanted, kept)
        yield lambda: learn.fit(learn.n_epochs, valid=False)


def learner_all(work: Work, task: Task, folder: Path) -> Any:
    """The Learner with metrics, progress bar, scalars in TensorBoard and checkpoints."""
    return _learner(work, task, folder, board=False)


def learner_experiment(work: Work, task: Task, folder: Path) -> Any:
    """As experiments run it: also with graph, histograms and images in TensorBoard."""
    return _learner(work, task, folder, board=True)


@contextmanager
def _lightning(work: Work, task: Task, folder: Path, *, board: bool) -> Iterator[Fit]:
    run = _run(work, task, folder, "lightning")
    callbacks = trainer_callbacks(run, work.data)
    kept: list[Callback] = [cb for cb in callbacks if board or not isinstance(cb, Board)]
    trainer = Trainer(
        **flags(work),
        default_root_dir=folder,
        logger=run.loggers,
        callbacks=kept,
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # one of the callbacks is the progress bar
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    with run.logging():
        yield lambda: trainer.fit(task, datamodule=work.data)


def lightning_all(work: Work, task: Task, folder: Path) -> Any:
    """Lightning with metrics, progress bar, scalars in TensorBoard and checkpoints."""
    return _lightning(work, task, folder, board=False)


def lightning_experiment(work: Work, task: Task, folder: Path) -> Any:
    """As experiments run it: also with graph, histograms and images in TensorBoard."""
    return _lightning(work, task, folder, board=True)


@contextmanager
def lightning_barebones(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Lightning with `barebones=True`, and without logging."""
    task.log = task.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    trainer = Trainer(**flags(work), barebones=True)
    yield lambda: trainer.fit(task, datamodule=work.data)


CONTESTANTS: dict[str, Contestant] = {
    HAND: by_hand,
    "Learner, metrics": learner_with_metrics,
    "Learner, all features": learner_all,
    "Learner, as in experiments": learner_experiment,
    BAREBONES: lightning_barebones,
    "Lightning, all features": lightning_all,
    "Lightning, as in experiments": lightning_experiment,
}
