"""What both tasks share: predictions, schedules, and what goes into a checkpoint."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError
from twinloop.models import MLP
from twinloop.tasks import Classification, Cosine, OneCycle
from twinloop.tasks.schedule import Schedule


def task(data: ImageDataModule, schedule: Schedule | None = None) -> Classification:
    return Classification(MLP, lambda weights: SGD(weights, 0.1), data.spec, schedule)


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


class Rates(Callback):
    """Takes down the learning rate of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take down one rate."""
        self.found.append(float(optimizer.param_groups[0]["lr"]))


def rates(data: ImageDataModule, schedule: Schedule | None, **options: Any) -> list[float]:
    """The learning rate of each step in two epochs of three batches."""
    callback = Rates()
    few = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1}
    run = trainer(**few, **options, callbacks=[callback])
    run.fit(task(data, schedule), datamodule=data)
    return callback.found


def test_without_a_schedule_the_rate_stays(digits: ImageDataModule) -> None:
    assert rates(digits, None) == [0.1] * 6


def test_a_schedule_by_steps_ends_with_the_run(digits: ImageDataModule) -> None:
    found = rates(digits, OneCycle())
    assert len(found) == 6
    assert found[0] == pytest.approx(0.1 / 25)
    assert found[-1] == pytest.approx(0.1 / 250_000)


def test_accumulated_batches_are_one_step_of_the_schedule(digits: ImageDataModule) -> None:
    found = rates(digits, OneCycle(), accumulate_grad_batches=3)
    assert len(found) == 2
    assert found[-1] == pytest.approx(0.1 / 250_000)


def test_a_schedule_by_epochs_moves_between_epochs(digits: ImageDataModule) -> None:
    assert rates(digits, Cosine()) == pytest.approx([0.1] * 3 + [0.05] * 3)


def test_a_schedule_needs_a_length(digits: ImageDataModule) -> None:
    run = trainer(max_epochs=-1)
    with pytest.raises(UserError, match=r"set trainer\.max_epochs"):
        run.fit(task(digits, OneCycle()), datamodule=digits)


def test_train_metrics_are_the_mean_over_all_pictures(digits: ImageDataModule) -> None:
    # A rate of 0 keeps the weights, so that val and train may be counted afterwards.
    still = Classification(MLP, lambda weights: SGD(weights, 0.0), digits.spec)
    run = trainer(max_epochs=1)
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


def test_each_evaluation_counts_anew(digits: ImageDataModule) -> None:
    classifier, run = task(digits), trainer()
    first = run.validate(classifier, datamodule=digits, verbose=False)
    assert run.validate(classifier, datamodule=digits, verbose=False) == first


def test_a_checkpoint_holds_what_predict_must_know_in_plain_types(digits: ImageDataModule) -> None:
    saved = task(digits)
    checkpoint: dict[str, Any] = {"state_dict": saved.state_dict(), "global_step": 0}
    saved.on_save_checkpoint(checkpoint)
    assert checkpoint["data_spec"] == {
        "name": "digits",
        "fingerprint": digits.spec.fingerprint,
        "image_shape": (1, 8, 8),
        "class_names": tuple("0123456789"),
    }


def test_predictions_are_the_networks_answers(digits: ImageDataModule) -> None:
    classifier = task(digits)
    images = torch.rand(5, 1, 8, 8)
    batches = [(images[:3], torch.zeros(3)), (images[3:], torch.zeros(2))]
    outputs: Any = trainer().predict(classifier, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs), classifier(images))
