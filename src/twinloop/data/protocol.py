"""What loops, checkpoints and reports need of a data module."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from twinloop.data.resumable import Resumable
from twinloop.data.spec import DataFacts, DataSpec


class Data(Protocol):
    """A LightningDataModule with batches that depend only on (seed, epoch), and their facts.

    `ImageDataModule` is one, and `OwnData` makes one of any other LightningDataModule.
    """

    trainer: Any
    """The Trainer, or what stands in for it while the Learner trains."""
    device: torch.device
    """Where batches are made: that of the loop."""
    seed: int

    @property
    def spec(self) -> DataSpec:
        """What a network is built for, and a checkpoint is compared with."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of rows in train, val and test; 0 if there are none."""

    @property
    def facts(self) -> DataFacts:
        """What is known once it is read."""

    def batches(self, processes: int = 1) -> dict[str, int]:
        """The number of batches in train, val and test, for each of several processes."""

    def state_dict(self) -> dict[str, Any]:
        """The position in train, for a checkpoint."""

    def expect(self, state: dict[str, Any]) -> None:
        """Continue the train loader that there is after that position, to which the loop goes."""

    def train_dataloader(self) -> Resumable: ...

    def val_dataloader(self) -> Resumable: ...

    def test_dataloader(self) -> Resumable: ...

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A batch of these loaders, on its device, as a task takes it."""

    def examples(self, count: int) -> Any:
        """At most `count` rows of val, or of train where val is empty, as a task takes them."""
