"""What both tasks share: predictions, schedules, and what goes into a checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from tests.commands import quiet_trainer
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP, LessonAutoencoder
from twinloop.tasks import (
    Classification,
    Cosine,
    OneCycle,
    Plateau,
    Reconstruction,
    Task,
    TorchSchedule,
)
from twinloop.tasks.schedule import AnySchedule, Schedule


def task(data: ImageDataModule, schedule: AnySchedule | None = None) -> Classification:
    return Classification(MLP, lambda weights: SGD(weights, 0.1), data.spec, schedule)


class Rates(Callback):
    """Takes down the learning rate of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take down one rate."""
        self.found.append(float(optimizer.param_groups[0]["lr"]))


def rates(data: ImageDataModule, schedule: AnySchedule | None, **options: Any) -> list[float]:
    """The learning rate of each step in two epochs of three batches."""
    callback = Rates()
    few = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1}
    run = quiet_trainer(**few | options, callbacks=[callback])
    run.fit(task(data, schedule), datamodule=data)
    return callback.found


def test_without_a_schedule_the_rate_stays(digits: ImageDataModule) -> None:
    assert rates(digits, None) == [0.1] * 6


def test_a_schedule_by_steps_ends_with_the_run(digits: ImageDataModule) -> None:
    for accumulated, steps in ((1, 6), (3, 2)):
        found = rates(digits, OneCycle(), accumulate_grad_batches=accumulated)
        assert len(found) == steps
        assert found[-1] == pytest.approx(0.1 / 250_000)


def test_a_scheduler_of_torch_steps_after_every_epoch(digits: ImageDataModule) -> None:
    halve = partial(StepLR, step_size=1, gamma=0.5)
    assert rates(digits, halve) == [0.1] * 3 + [0.05] * 3
    assert rates(digits, TorchSchedule(halve, "epoch", 2), max_epochs=3) == [0.1] * 6 + [0.05] * 3


def test_a_schedule_by_epochs_moves_between_epochs(digits: ImageDataModule) -> None:
    assert rates(digits, Cosine()) == pytest.approx([0.1] * 3 + [0.05] * 3)


def test_train_metrics_are_the_mean_over_all_images(digits: ImageDataModule) -> None:
    # A rate of 0 keeps the weights, so that val and train may be counted afterwards.
    still = Classification(MLP, lambda weights: SGD(weights, 0.0), digits.spec)
    run = quiet_trainer(max_epochs=1)
    run.fit(still, datamodule=digits)
    for stage, rows in digits.rows.items():
        if stage != "test":
            images = digits.data.train.images[rows].float() / 255
            labels = digits.data.train.labels[rows]
            with torch.no_grad():
                logits = still(images)
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            assert float(run.callback_metrics[f"{stage}/loss"]) == pytest.approx(loss, rel=1e-5)
            assert float(run.callback_metrics[f"{stage}/accuracy"]) == pytest.approx(accuracy)


def test_metrics_are_reset_between_evaluations(digits: ImageDataModule) -> None:
    classifier, run = task(digits), quiet_trainer()
    first = run.validate(classifier, datamodule=digits, verbose=False)
    assert run.validate(classifier, datamodule=digits, verbose=False) == first


def saved_by(saved: Task, **more: Any) -> dict[str, Any]:
    """A checkpoint as Lightning and the homemade loop hand it to the task."""
    checkpoint: dict[str, Any] = {"state_dict": saved.state_dict(), "global_step": 0} | more
    saved.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_checkpoint_has_data_spec_and_plain_hyperparameters(
    digits: ImageDataModule,
) -> None:
    plain = {
        "width": 3,
        "rate": 0.5,
        "tta_flip": True,
        "none": None,
        "nested": {"names": ["a", ("b", 1)], 2: {}},
    }
    other = {
        "tensor": torch.ones(1),
        "path": Path("a"),
        "network": MLP,
        "inner": {"names": [Path("a")]},
        "key": {Path("a"): 1},
        "numpy": torch.ones(1).numpy()[0],
        "spec": digits.spec,  # a tuple of a class of its own
    }
    checkpoint = saved_by(task(digits), hyper_parameters=plain | other)
    assert checkpoint["hyper_parameters"] == plain
    assert "hyper_parameters" not in saved_by(task(digits), hyper_parameters=other)
    assert "hyper_parameters" not in saved_by(task(digits))
    assert checkpoint["data_spec"] == {
        "name": "digits",
        "fingerprint": digits.spec.fingerprint,
        "image_shape": (1, 8, 8),
        "class_names": tuple("0123456789"),
    }


@pytest.mark.parametrize("fn", [None, TrainerFn.TESTING, TrainerFn.PREDICTING])
def test_without_a_fit_only_the_weights_of_a_checkpoint_are_loaded(
    fn: TrainerFn | None, digits: ImageDataModule
) -> None:
    classifier = task(digits)
    if fn:
        classifier.trainer = quiet_trainer()
        classifier.trainer.state.fn = fn
    classifier.on_load_checkpoint({"plan": {"steps": 6}, "counted": [{"loss": {"mean_value": 1}}]})
    assert not classifier.train_metrics.loss.update_called
    classifier.optimizer_and_scheduler(15, 5)


SCHEDULES: list[tuple[Schedule | None, dict[str, int]]] = [
    (OneCycle(), {"steps": 6}),
    (Cosine(), {"epochs": 2}),
    (Plateau(), {}),
    (None, {}),
]


@pytest.mark.parametrize(("schedule", "plan"), SCHEDULES)
def test_a_checkpoint_saves_the_length_that_its_schedule_needs(
    schedule: Schedule | None, plan: dict[str, int], digits: ImageDataModule
) -> None:
    classifier = task(digits, schedule)
    classifier.optimizer_and_scheduler(6, 2)
    assert saved_by(classifier)["plan"] == plan


@pytest.mark.parametrize(("schedule", "plan"), SCHEDULES)
def test_a_schedule_requires_only_the_length_that_it_needs(
    schedule: Schedule | None, plan: dict[str, int], digits: ImageDataModule
) -> None:
    classifier = task(digits, schedule)
    for steps, epochs in ((float("inf"), 2), (float("inf"), -1), (6, None), (6, -1)):
        known = {"steps": steps != float("inf"), "epochs": epochs == 2}
        if all(known[name] for name in plan):
            classifier.optimizer_and_scheduler(steps, epochs)
        else:
            with pytest.raises(UserError, match=r"how long the run is; set trainer\.max_epochs"):
                classifier.optimizer_and_scheduler(steps, epochs)


@pytest.mark.parametrize("loads_first", [False, True])
@pytest.mark.parametrize(("schedule", "plan"), SCHEDULES)
def test_a_resumed_run_must_have_the_planned_length_of_its_schedule(
    schedule: Schedule | None, plan: dict[str, int], loads_first: bool, digits: ImageDataModule
) -> None:
    def resume(steps: int, epochs: int) -> None:
        classifier = task(digits, schedule)
        classifier.trainer = quiet_trainer()
        classifier.trainer.state.fn = TrainerFn.FITTING
        if loads_first:  # as a Trainer does; the Learner has made the optimiser by then
            classifier.on_load_checkpoint({"plan": plan, "counted": [{}]})
        classifier.optimizer_and_scheduler(steps, epochs)
        classifier.on_load_checkpoint({"plan": plan, "counted": [{}]})

    resume(6, 2)
    for steps, epochs in ((15, 2), (6, 5)):
        now = {"steps": steps, "epochs": epochs}
        if all(now[name] == then for name, then in plan.items()):
            resume(steps, epochs)
        else:
            ((name, then),) = plan.items()
            message = f"planned for {then} {name}, and this run has {now[name]}; pass the"
            with pytest.raises(UserError, match=message):
                resume(steps, epochs)


def test_metrics_are_known_by_name_before_any_is_measured(digits: ImageDataModule) -> None:
    tasks: list[Task] = [
        task(digits),
        Reconstruction(LessonAutoencoder, lambda weights: SGD(weights, 0.1), digits.spec),
    ]
    single = {
        Classification: {"train": ["accuracy"], "val": ["accuracy"], "test": ["accuracy"]},
        Reconstruction: {"train": [], "val": ["mse", "psnr"], "test": ["mse", "psnr", "ssim"]},
    }
    images = torch.rand(2, 1, 8, 8)
    for one in tasks:
        for stage, names in single[type(one)].items():
            found = one.metric_names(stage)
            assert found == [f"{stage}/{name}" for name in ("loss", *names)]
            output, target = one(images), torch.tensor([3, 4])
            one.count(stage, output, images if output.ndim == 4 else target, torch.tensor(1.0))
            assert one.compute(stage).keys() == set(found)


def test_predictions_are_the_networks_answers(digits: ImageDataModule) -> None:
    classifier = task(digits)
    images = torch.rand(5, 1, 8, 8)
    batches = [(images[:3], torch.zeros(3)), (images[3:], torch.zeros(2))]
    outputs: Any = quiet_trainer().predict(classifier, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs), classifier(images))
