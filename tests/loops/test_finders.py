"""What Lightning's finders find is what the run trains with, as if it had been set."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from torch.optim import SGD

from tests.commands import assert_equal_weights, fit, quiet_trainer, run_in, saved
from twinloop.data.datamodule import ImageDataModule
from twinloop.models import MLP, LessonAutoencoder
from twinloop.tasks import Classification, Reconstruction

RATE = ["LearningRateFinder", "num_training_steps=30"]
SIZE = ["BatchSizeFinder", "init_val=32", "max_trials=2"]
ONE_CYCLE = "--model.schedule=twinloop.tasks.OneCycle"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("finder", "found"), [(RATE, "lr"), (SIZE, "batch_size")])
def test_a_search_ends_in_the_run_of_what_it_found_and_may_be_resumed(
    finder: list[str], found: str, tmp_path: Path
) -> None:
    name, *options = finder
    search = [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}"]
    search += [f"--trainer.callbacks.{option}" for option in options]
    all_batches = ["--trainer.limit_train_batches=1.0", "--data.batch_size=16"]

    def last(folder: str, *more: str) -> dict[str, Any]:
        assert fit(tmp_path / folder, *all_batches, *more) == 0
        return saved(run_in(tmp_path / folder))

    searched = last("search", *search, ONE_CYCLE)
    value = searched["callbacks"]["Found"][found]
    assert value not in (None, 16)
    setting = f"--model.optimizer.lr={value!r}" if found == "lr" else f"--data.batch_size={value}"
    assert_equal_weights(searched, last("set", setting, ONE_CYCLE))

    whole = last("whole", *search)
    last("halves", *search, "--trainer.max_epochs=1")
    assert_equal_weights(whole, last("halves", *search, "--ckpt_path=last"))


class Groups(Callback):
    """Takes down how many weights each group of the optimiser has, and whether the first moved."""

    def __init__(self) -> None:
        self.found: list[tuple[list[int], bool]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = [len(group["params"]) for group in trainer.optimizers[0].param_groups]
        (first, *_) = pl_module.parameters()
        self.found.append((groups, not torch.equal(first, self.start)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = next(pl_module.parameters()).detach().clone()


def test_a_backbone_is_frozen_until_its_epoch(digits: ImageDataModule) -> None:
    task, groups = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec), Groups()
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    quiet_trainer(max_epochs=2, limit_train_batches=2, callbacks=[finetuning, groups]).fit(
        task, datamodule=digits
    )
    assert groups.found == [([2], False), ([2, 2], True)]


def test_a_backbone_is_that_of_the_network_or_all_but_its_last_layer(
    digits: ImageDataModule,
) -> None:
    classifier = Classification(MLP, lambda weights: SGD(weights, 0.1), digits.spec)
    network: Any = classifier.network
    assert list(classifier.backbone) == [network.layers[1]]  # type: ignore[call-overload]
    network.backbone = torch.nn.Linear(1, 1)
    assert classifier.backbone is network.backbone
    autoencoder = Reconstruction(LessonAutoencoder, lambda w: SGD(w, 0.1), digits.spec)
    assert autoencoder.backbone is autoencoder.network.encoder
