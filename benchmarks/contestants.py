"""A whole fit by twinloop and by other frameworks, each set up as in its own guides.

Each trains the same network from the same weights, by the same optimiser and schedule, on the same
batches in the same order, and measures loss (and accuracy) on train and val. twinloop and the four
other frameworks write the same: checkpoints of the last and the best epoch, and to TensorBoard the
loss of every tenth step and the metrics of every epoch. Reading the data set and creating the
network are not timed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from benchmarks import miniai
from benchmarks.loops import HAND, Fit, by_hand, flags, learner_all, lightning_all
from benchmarks.pairs import Target, row
from benchmarks.race import Contestant, race
from benchmarks.work import Work
from twinloop.tasks import Task

OURS = ("twinloop, Lightning", "twinloop, Learner")
SLOW = ("lesson's Learner over datasets", "Lightning over datasets")
EPOCHS = {"lesson-classifier": 5, "autoencoder": 1}
"""The whole small experiment, and a third of the other."""
EVERY = 10
"""Steps between two losses in TensorBoard."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """For both networks, the speed of either loop relative to each of the others."""
    found = []
    for experiment, epochs in EPOCHS.items():
        work = Work(experiment, source, device, epochs=epochs)
        times = race(work, CONTESTANTS, rounds, alike=ALIKE)
        for ours in OURS:
            found.append(row(times, ours, HAND, experiment=experiment))
            for name in CONTESTANTS:
                if name not in (*OURS, HAND):
                    target = Target(4.0 if name in SLOW else 1.0, at_least=True)
                    found.append(row(times, ours, name, target, experiment=experiment))
    return found


def torch_optimizer(work: Work, task: Task) -> tuple[torch.optim.Optimizer, Any]:
    """The experiment's optimiser and schedule."""
    optimizer, scheduler = task.optimizer_and_scheduler(work.steps, work.epochs)
    assert scheduler is not None
    return optimizer, scheduler["scheduler"]


def accuracy_and_loss(work: Work) -> MetricCollection:
    """The metrics of all contestants."""
    metrics: dict[str, Any] = {"loss": MeanMetric()}
    if not work.is_autoencoder:
        metrics["accuracy"] = MulticlassAccuracy(len(work.data.spec.class_names), average="micro")
    return MetricCollection(metrics).to(work.device)


@contextmanager
def lesson(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """The lesson: `datasets.with_transform`, and its Learner."""
    optimizer, schedule = torch_optimizer(work, task)
    classes = None if work.is_autoencoder else len(work.data.spec.class_names)
    cbs = [
        miniai.DeviceCB(work.device),
        miniai.MetricsCB(classes, work.device),
        miniai.BatchSchedCB(schedule),
    ]
    loaders = work.lesson_loader("train"), work.lesson_loader("val")
    learn = miniai.Learner(task.network, loaders, task.loss, optimizer, cbs)
    yield lambda: learn.fit(work.epochs)


class Usual(LightningModule):
    """A LightningModule as the guides write it."""

    def __init__(self, work: Work, task: Task) -> None:
        super().__init__()
        self.network, self.task_loss = task.network, task.loss
        self.parts = torch_optimizer(work, task)
        self.accuracy = None
        if not work.is_autoencoder:
            classes = len(work.data.spec.class_names)
            self.accuracy = torch.nn.ModuleDict(
                {f"in_{s}": MulticlassAccuracy(classes, average="micro") for s in ("train", "val")}
            )

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        outputs = self.network(inputs)
        loss = self.task_loss(outputs, targets)
        self.log(f"{stage}_loss", loss, prog_bar=True, on_epoch=True)
        if self.accuracy is not None:
            metric = cast(MulticlassAccuracy, self.accuracy[f"in_{stage}"])
            metric(outputs, targets)
            self.log(f"{stage}_accuracy", metric, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._step("val", batch)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.parts
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


@contextmanager
def lightning_over_datasets(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Lightning with a DataLoader over `datasets.with_transform`, and the Trainer's defaults."""
    module = Usual(work, task)
    trainer = Trainer(**flags(work), default_root_dir=folder)
    loaders = work.lesson_loader("train"), work.lesson_loader("val")
    yield lambda: trainer.fit(module, *loaders)


@contextmanager
def skorch(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """A skorch net on a TensorDataset, validated on another, with skorch's callbacks."""
    from skorch import NeuralNet, NeuralNetClassifier
    from skorch.callbacks import Checkpoint, LRScheduler, TensorBoard
    from skorch.helper import predefined_split

    class Scalars(TensorBoard):  # type: ignore[misc]
        """The metrics of an epoch, and the loss of every tenth step."""

        step = 0

        def on_batch_end(
            self, net: Any, batch: Any = None, training: bool = False, **more: Any
        ) -> None:
            if training:
                self.step += 1
                if self.step % EVERY == 0:
                    loss = net.history[-1, "batches", -1, "train_loss"]
                    self.writer.add_scalar("train_loss", loss, self.step)

    schedule = task.schedule
    assert schedule is not None
    kind = NeuralNet if work.is_autoencoder else NeuralNetClassifier
    criterion = torch.nn.MSELoss if work.is_autoencoder else torch.nn.CrossEntropyLoss
    train, val = work.tensor_loader("train"), work.tensor_loader("val")
    net = kind(
        task.network,
        criterion=criterion,
        optimizer=lambda parameters, lr: task.optimizer(parameters),
        max_epochs=work.epochs,
        batch_size=work.batch_size,
        iterator_train__sampler=train.sampler,
        iterator_valid__sampler=val.sampler,
        train_split=predefined_split(val.dataset),
        callbacks=[
            LRScheduler(
                lambda optimizer, last_epoch: schedule(optimizer, work.steps, work.epochs)[
                    "scheduler"
                ],
                step_every="batch",
            ),
            Checkpoint(dirname=folder / "last", monitor=None),
            Checkpoint(dirname=folder / "best"),
            Scalars(SummaryWriter(folder)),
        ],
        device=str(work.device),
    )
    yield lambda: net.fit(train.dataset, y=None)


@contextmanager
def ignite(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Ignite's supervised trainer and evaluator, with its metrics and handlers."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers import ModelCheckpoint, TensorboardLogger
    from ignite.metrics import Accuracy, Loss

    optimizer, schedule = torch_optimizer(work, task)

    def metrics() -> dict[str, Any]:
        found = {"loss": Loss(task.loss, lambda output: output[:2])}
        if not work.is_autoencoder:
            found["accuracy"] = Accuracy(lambda output: output[:2])
        return found

    trainer = create_supervised_trainer(
        task.network,
        optimizer,
        task.loss,
        device=work.device,
        output_transform=lambda x, y, y_pred, loss: (y_pred, y, loss),
    )
    for name, metric in metrics().items():
        metric.attach(trainer, name)
    evaluator = create_supervised_evaluator(task.network, metrics(), device=work.device)
    loaders = work.tensor_loader("train"), work.tensor_loader("val")
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: schedule.step())

    @trainer.on(Events.EPOCH_COMPLETED)  # type: ignore[untyped-decorator, unused-ignore]
    def validate() -> None:
        print(trainer.state.epoch, trainer.state.metrics)
        evaluator.run(loaders[1])
        print(evaluator.state.metrics)

    parts = {"network": task.network, "optimizer": optimizer, "schedule": schedule}
    last = ModelCheckpoint(folder / "last", n_saved=1)
    best = ModelCheckpoint(
        folder / "best", n_saved=1, score_function=lambda engine: -engine.state.metrics["loss"]
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, last, parts)
    evaluator.add_event_handler(Events.COMPLETED, best, parts)
    with TensorboardLogger(log_dir=folder) as board:
        step = Events.ITERATION_COMPLETED(every=EVERY)
        board.attach_output_handler(
            trainer, step, "step", output_transform=lambda output: {"loss": output[2].item()}
        )
        for stage, engine in (("train", trainer), ("val", evaluator)):
            end = Events.EPOCH_COMPLETED if engine is trainer else Events.COMPLETED
            board.attach_output_handler(engine, end, stage, metric_names="all")
        yield lambda: trainer.run(loaders[0], max_epochs=work.epochs)


@contextmanager
def accelerate(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """A hand-written loop with everything prepared, logged and saved by an Accelerator."""
    from accelerate import Accelerator

    accelerator = Accelerator(
        cpu=work.device.type == "cpu", log_with="tensorboard", project_dir=folder
    )
    accelerator.init_trackers("board")
    optimizer, schedule = torch_optimizer(work, task)
    network, optimizer, train, val, schedule = accelerator.prepare(
        task.network, optimizer, work.tensor_loader("train"), work.tensor_loader("val"), schedule
    )
    metrics = {stage: accuracy_and_loss(work) for stage in ("train", "val")}

    def count(stage: str, outputs: Tensor, targets: Tensor, loss: Tensor) -> None:
        outputs, targets = accelerator.gather_for_metrics((outputs, targets))
        metrics[stage]["loss"].update(loss.detach(), weight=len(targets))
        if "accuracy" in metrics[stage]:
            metrics[stage]["accuracy"].update(outputs.detach(), targets)

    def fit() -> None:
        lowest, step = float("inf"), 0
        for epoch in range(work.epochs):
            network.train()
            for inputs, targets in train:
                step += 1
                optimizer.zero_grad()
                outputs = network(inputs)
                loss = task.loss(outputs, targets)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                count("train", outputs, targets, loss)
                if step % EVERY == 0:
                    accelerator.log({"step/loss": loss.item()}, step)
            network.eval()
            with torch.no_grad():
                for inputs, targets in val:
                    outputs = network(inputs)
                    count("val", outputs, targets, task.loss(outputs, targets))
            values = {
                f"{stage}/{name}": float(value)
                for stage, counted in metrics.items()
                for name, value in counted.compute().items()
            }
            accelerator.print(epoch, values)
            accelerator.log(values, step)
            accelerator.save_state(str(folder / "last"))
            if values["val/loss"] < lowest:
                lowest = values["val/loss"]
                accelerator.save_state(str(folder / "best"))
            for counted in metrics.values():
                counted.reset()

    yield fit
    accelerator.end_training()


@contextmanager
def keras(work: Work, task: Task, folder: Path) -> Iterator[Fit]:
    """Keras 3 on torch: `compile` and `fit` on arrays, with the same network.

    Keras's own TensorBoard needs TensorFlow, so that its scalars are written by torch's writer.
    """
    with patch.dict(os.environ, KERAS_BACKEND="torch"):
        import keras as k

    optimizer, schedule = torch_optimizer(work, task)
    rates = []
    for _ in range(work.steps):
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        schedule.step()

    class Gathered(k.utils.PyDataset):  # type: ignore[misc]
        """Arrays in the order of the other contestants."""

        def __init__(self, stage: str) -> None:
            super().__init__()
            self.x, self.y = (part.numpy() for part in work.arrays[stage])
            self.order = work.order(stage)
            self.set_epoch(0)

        def __len__(self) -> int:
            return -(-len(self.order) // work.batch_size)

        def __getitem__(self, index: int) -> Any:
            rows = self.rows[index * work.batch_size : (index + 1) * work.batch_size]
            return self.x[rows], self.y[rows]

        def set_epoch(self, epoch: int) -> None:
            """Set the epoch of the order; Keras reads a batch before the first epoch begins."""
            self.order.epoch = epoch
            self.rows = np.array(list(self.order))

    class OneCycle(k.callbacks.Callback):  # type: ignore[misc]
        """The experiment's schedule of learning rate and momentum, and its order of every epoch."""

        step = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            train.set_epoch(epoch)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate, self.model.optimizer.beta_1 = rates[self.step]
            self.step += 1

    class Scalars(k.callbacks.Callback):  # type: ignore[misc]
        """The metrics of an epoch, and the loss of every tenth step."""

        step = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            if self.step % EVERY == 0:
                writer.add_scalar("step/loss", float(logs["loss"]), self.step)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            for name, value in logs.items():
                writer.add_scalar(name, value, self.step)

    writer = SummaryWriter(folder)
    save = k.callbacks.ModelCheckpoint
    last = save(folder / "last.weights.h5", save_weights_only=True)
    best = save(folder / "best.weights.h5", save_weights_only=True, save_best_only=True)
    group = optimizer.param_groups[0]
    model = k.Sequential([k.layers.TorchModuleWrapper(task.network)])
    decay, epsilon = group["weight_decay"], group["eps"]
    model.compile(
        k.optimizers.AdamW(group["lr"], weight_decay=decay, epsilon=epsilon),
        "mse" if work.is_autoencoder else k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[] if work.is_autoencoder else ["accuracy"],
    )
    train, val = Gathered("train"), Gathered("val")
    yield lambda: model.fit(
        train,
        epochs=work.epochs,
        shuffle=False,
        validation_data=val,
        callbacks=[OneCycle(), Scalars(), last, best],
    )
    writer.close()


CONTESTANTS: dict[str, Contestant] = {
    OURS[0]: lightning_all,
    OURS[1]: learner_all,
    HAND: by_hand,
    SLOW[0]: lesson,
    SLOW[1]: lightning_over_datasets,
    "skorch": skorch,
    "ignite": ignite,
    "accelerate": accelerate,
    "Keras": keras,
}
ALIKE = {"Keras": 0.25}
"""Tolerances of contestants with another optimiser: the distance of their weights from the others'
after 6 steps, as a share of the distance that those moved. Keras rounds differently, and an update
changes its sign where a gradient is nearly 0."""
