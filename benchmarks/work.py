"""The work of all contestants: an experiment, from the same weights and on the same batches."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from twinloop.data.batches import Batches
from twinloop.data.datamodule import ImageDataModule
from twinloop.data.source import find_source
from twinloop.data.split import generator, stratified
from twinloop.tasks import Reconstruction, Task

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SEED = 42


class SameOrder(Sampler[int]):
    """The rows of an epoch in the order of `Batches`; each new iterator is the next epoch's."""

    def __init__(self, batches: Batches, limit: int) -> None:
        self.batches = batches
        self.count = min(len(batches.rows), limit * batches.batch_size)
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        rows = torch.arange(len(self.batches.rows))
        if self.batches.shuffle:
            rows = torch.randperm(len(rows), generator=generator(self.batches.seed, self.epoch, 0))
        self.epoch += 1
        yield from rows[: self.count].tolist()


@dataclass
class Work:
    """An experiment, shortened to the first `limit` batches of train in each of `epochs` epochs.

    Validation has at most a tenth as many batches, like the split of Fashion-MNIST.
    """

    experiment: str
    source: str = "digits"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 256
    epochs: int = 1
    limit: int = 10**9
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the network that replace the experiment's."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Settings that replace the experiment's optimiser's, in `Grouped` of that for the rest."""

    @cached_property
    def data(self) -> ImageDataModule:
        """The decoded data set."""
        return ImageDataModule(self.source, batch_size=self.batch_size, seed=SEED)

    @cached_property
    def limits(self) -> dict[str, int]:
        """Batches of train and of val per epoch."""
        train, val = len(self.data.train_batches()), len(self.data.val_dataloader())
        train = min(train, self.limit)
        return {"train": train, "val": min(val, max(1, train // 10))}

    @property
    def steps(self) -> int:
        """Optimiser steps of a run."""
        return self.limits["train"] * self.epochs

    @property
    def images(self) -> int:
        """Images trained on in a run, counted in every epoch."""
        return self.epochs * min(
            len(self.data.rows["train"]), self.limits["train"] * self.batch_size
        )

    @cached_property
    def is_autoencoder(self) -> bool:
        """Whether the target of an image is the image itself."""
        return isinstance(self.task(), Reconstruction)

    def task(self) -> Task:
        """A new task of the experiment, always with the same weights."""
        torch.manual_seed(SEED)
        parser = LightningArgumentParser()
        parser.add_subclass_arguments(Task, "model", skip={"spec"})
        config = yaml.safe_load((EXPERIMENTS / f"{self.experiment}.yaml").read_text())
        given = config["model"]["init_args"]
        given["network"].setdefault("init_args", {}).update(self.model)
        optimizer = given["optimizer"]
        optimizer = optimizer.get("init_args", {}).get("optimizer", optimizer)
        optimizer.setdefault("init_args", {}).update(self.optimizer)
        settings = parser.parse_object({"model": config["model"]})
        settings.model.init_args.spec = self.data.spec
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a renamed function that Lightning calls
            task: Task = parser.instantiate_classes(settings).model
        return task.to(self.device)

    def order(self, stage: str) -> SameOrder:
        """A sampler of the same batches, for other loaders."""
        whole = self.data.train_batches() if stage == "train" else self.data.val_dataloader()
        return SameOrder(whole, self.limits[stage])

    @cached_property
    def arrays(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images of train and val as floats in memory, and the targets: labels or the images."""
        found = {}
        for stage in ("train", "val"):
            rows = self.data.rows[stage]
            images = self.data.data.train.images[rows].float().div_(255)
            labels = self.data.data.train.labels[rows]
            found[stage] = images, images if self.is_autoencoder else labels
        return found

    def tensor_loader(self, stage: str) -> "DataLoader[Any]":
        """The usual: a TensorDataset, and a DataLoader with its default collate."""
        dataset = TensorDataset(*self.arrays[stage])
        return DataLoader(dataset, self.batch_size, sampler=self.order(stage))

    @cached_property
    def hub_images(self) -> dict[str, Any]:
        """Train and val of `datasets`, PNG by PNG, with the lesson's transform."""
        whole = find_source(self.source).read()[0]["train"]
        held_out = len(whole) - len(self.data.data.train)
        first = stratified(torch.tensor(whole["label"]), held_out, seed=0)[0]
        image, label = whole.column_names[:2]

        def transform(batch: dict[str, Any]) -> dict[str, Any]:
            return {"image": [to_tensor(x) for x in batch[image]], "label": batch[label]}

        return {
            stage: whole.select(first[self.data.rows[stage]].tolist()).with_transform(transform)
            for stage in ("train", "val")
        }

    def lesson_loader(self, stage: str, workers: int = 0) -> "DataLoader[Any]":
        """The lesson's: a dict per image, default collate, then a pair."""
        return DataLoader(
            self.hub_images[stage],
            self.batch_size,
            sampler=self.order(stage),
            collate_fn=CollatePair(self.is_autoencoder),
            num_workers=workers,
        )


class CollatePair:
    """The lesson's `collate_dict`: default collate, and the two columns of the result."""

    def __init__(self, is_autoencoder: bool) -> None:
        self.columns = ("image", "image") if is_autoencoder else ("image", "label")

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        batch = torch.utils.data.default_collate(rows)
        return batch[self.columns[0]], batch[self.columns[1]]


def to_tensor(image: Any) -> Tensor:
    """A PIL image as float32 `[1, H, W]` in [0, 1], as torchvision's `to_tensor` does it."""
    return torch.from_numpy(np.array(image)).unsqueeze(0).float().div(255)
