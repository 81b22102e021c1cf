"""Data modules of a user's own, named by `class_path` in tests."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from twinloop.data.spec import DataSpec

NAMES = ("even", "odd")
ROWS = {"train": 50, "val": 20, "test": 16}


def rows(stage: str) -> tuple[Tensor, Tensor]:
    """Images `[N, 1, 8, 8]` and labels `[N]`, always the same."""
    generator = torch.Generator().manual_seed(list(ROWS).index(stage))
    labels = torch.arange(ROWS[stage]) % 2
    images = torch.rand(ROWS[stage], 1, 8, 8, generator=generator) / 2
    return images + labels[:, None, None, None] / 2, labels


class Memory(LightningDataModule):
    """Tensors in memory, as in a tutorial: a shuffled DataLoader without a seed."""

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        self.sets: dict[str, Any] = {name: TensorDataset(*rows(name)) for name in ROWS}
        self.spec = DataSpec("memory", "1", (1, 8, 8), NAMES)

    def train_dataloader(self) -> Any:
        return DataLoader(self.sets["train"], self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["val"], self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.sets["test"], self.batch_size)


class Drawn(Dataset[tuple[Tensor, int]]):
    """Rows with noise by all three global generators."""

    def __init__(self, stage: str) -> None:
        self.images, self.labels = rows(stage)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        noise = torch.rand(1, 8, 8) + random.random() + np.random.rand()  # noqa: NPY002 - as other people do
        return self.images[row] + noise.float() / 10, int(self.labels[row])


class Augmented(Memory):
    """Random values in the data set, in the batch while training, and in `setup`."""

    def __init__(self, batch_size: int = 8, workers: int = 0, entropy: bool = False) -> None:
        super().__init__(batch_size)
        self.workers, self.entropy = workers, entropy

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.offset = torch.rand(())
        self.sets = {name: Drawn(name) for name in ROWS}

    def train_dataloader(self) -> Any:
        more: dict[str, Any] = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        order = torch.Generator()  # of its own, never seeded
        if self.entropy:
            return DataLoader(
                self.sets["train"], self.batch_size, sampler=Entropy(), drop_last=True
            )
        return DataLoader(self.sets["train"], self.batch_size, True, generator=order, **more)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        assert self.trainer is not None
        if self.trainer.training:
            images = images + self.offset * torch.rand(len(images), 1, 1, 1)
        return images, labels


class Entropy:
    """An order that nobody can repeat."""

    def __len__(self) -> int:
        return ROWS["train"]

    def __iter__(self) -> Any:
        return iter(np.random.default_rng().permutation(len(self)).tolist())


class Stream(LightningDataModule):
    """A shuffled stream of `datasets`, whose length is stated."""

    def __init__(self, said: int = ROWS["train"]) -> None:
        super().__init__()
        self.spec = DataSpec("stream", "1", (1, 8, 8), NAMES)
        self.sizes = ROWS | {"train": said, "test": 0}

    def _loader(self, stage: str) -> Any:
        from datasets import Dataset as Table

        images, labels = rows(stage)
        table = Table.from_dict({"image": images.numpy(), "label": labels.numpy()})
        stream = table.to_iterable_dataset(num_shards=4).with_format("torch")
        return DataLoader(stream.shuffle(seed=1, buffer_size=10), batch_size=8)

    def train_dataloader(self) -> Any:
        return self._loader("train")

    def val_dataloader(self) -> Any:
        return self._loader("val")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch["image"].float(), batch["label"]


class Sized(Memory):
    """Has to be told how large a batch is."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)


class NoSpec(Memory):
    """Has no facts."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        del self.spec


class NoTrain(LightningDataModule):
    """Has no batches."""

    spec = DataSpec("empty", "1", (1, 8, 8), NAMES)


class NoLength(Stream):
    """A stream of an unknown length."""

    def __init__(self) -> None:
        super().__init__()
        del self.sizes


class Several(Memory):
    """Two loaders in one."""

    def train_dataloader(self) -> Any:
        return [super().train_dataloader(), super().train_dataloader()]


class Moves(Memory):
    """Moves its batches itself."""

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch


class Jitter(nn.Module):
    """Scales each batch by a random value of each of the three generators."""

    def __init__(self, by: float = 0.1) -> None:
        super().__init__()
        self.by = by

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.rand(len(images), 1, 1, 1, device=images.device) + random.random()
        return images * (1 - self.by * (drawn + np.random.rand()) / 3)  # noqa: NPY002


class Crop(nn.Module):
    """Changes the size of images."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 1:]
