"""Any LightningDataModule, for both loops."""

import math
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from twinloop.data.datamodule import ImageDataModule
from twinloop.data.protocol import Data
from twinloop.data.replay import Replay
from twinloop.data.resumable import ResumableData
from twinloop.data.spec import DataFacts, DataSpec
from twinloop.data.split import SPLIT_SEED, seeded
from twinloop.errors import UserError

STAGES = ("train", "val", "test")
SPEC = 'spec = DataSpec("my data", "version 1", (channels, height, width), class_names)'


def as_data(module: LightningDataModule, seed: int) -> Data:
    """An ImageDataModule as it is, unless it has other loaders; of any other module an OwnData."""
    if isinstance(module, ImageDataModule) and not any(
        is_overridden(f"{stage}_dataloader", module, ImageDataModule) for stage in STAGES
    ):
        return module
    return OwnData(module, seed)


class OwnData(ResumableData):
    """Makes `Data` of a LightningDataModule: batches that depend only on (seed, epoch).

    The module has `spec`, a DataSpec, at least after `setup`, and `train_dataloader`; loaders of
    val and test may be missing. Where a loader has no length, as one of a stream, the module states
    its `sizes` in rows: `{"train": 60_000, "val": 5_000, "test": 10_000}`. It is prepared and set
    up here, for fit and for test, before there is a Trainer.

    Args:
        module: The data module.
        seed: Seed of the random values of its loaders and data sets; `setup` has always the same.

    Raises:
        UserError: what the module lacks, by name.
    """

    facts = DataFacts("test")

    def __init__(self, module: LightningDataModule, seed: int = 42) -> None:
        super().__init__(seed)
        self.module = module
        if self._has("transfer_batch_to_device"):
            raise self._error("overrides transfer_batch_to_device, which neither loop calls")
        if not self._has("train_dataloader"):
            raise self._error("has no train_dataloader; let it return a DataLoader")
        with seeded(SPLIT_SEED, 5):
            module.prepare_data()
            module.setup("fit")
            module.setup("test")
        spec = getattr(module, "spec", None)
        if not isinstance(spec, DataSpec) or not spec.is_valid():
            raise self._error(f"has {'no spec' if spec is None else spec}; set {SPEC}")
        self.spec = spec

    def __str__(self) -> str:  # Lightning's would create every loader, to count batches
        return f"{type(self).__name__}({type(self.module).__name__})"

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows in train, val and test."""
        return {stage: rows for stage, (rows, _) in self._counts.items()}

    def batches(self, processes: int = 1) -> dict[str, int]:
        """The number of batches in train, val and test.

        Raises:
            UserError: several processes, which would all get the same batches.
        """
        if processes > 1:
            raise self._error("is no ImageDataModule, which several processes need; train in one")
        return {stage: batches for stage, (_, batches) in self._counts.items()}

    def train_batches(self, *, overfit: bool = False) -> Replay:
        """The batches of train, always those of the first epoch if `overfit` is true."""
        return self._replay("train", fixed=overfit)

    def val_dataloader(self) -> Replay:
        return self._replay("val", fixed=True)

    def test_dataloader(self) -> Replay:
        return self._replay("test", fixed=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Both of the module's hooks, on the device."""
        self.module.trainer = self.trainer
        batch = self.module.on_before_batch_transfer(batch, dataloader_idx)
        return self.module.on_after_batch_transfer(batch, dataloader_idx)

    def examples(self, count: int) -> Any:
        """The first rows of val, or of train where val is empty, prepared as those of val."""
        stage = "val" if self.sizes["val"] else "train"
        trainer, self.trainer = self.trainer, SimpleNamespace(training=False, validating=True)  # type: ignore[assignment]
        try:
            batch = next(iter(self._replay(stage, fixed=True)))
            with seeded(self.seed, 6, cuda=self.device.type == "cuda"):
                batch = self.on_after_batch_transfer(batch, 0)
        finally:
            self.trainer = trainer
        return tree_map(lambda part: part[:count] if isinstance(part, Tensor) else part, batch)

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch and the module's own state, for a checkpoint."""
        own = self.module.state_dict()
        return super().state_dict() | ({"module": own} if own else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.module.load_state_dict(state_dict.get("module", {}))

    def expect(self, state: dict[str, Any]) -> None:
        super().expect(state)
        self.module.load_state_dict(state.get("module", {}))

    def _replay(self, stage: str, *, fixed: bool) -> Replay:
        name = f"data: the {stage}_dataloader of {type(self.module).__name__}"
        batches = self._counts[stage][1]
        loader = self._loader(stage) if batches else ()
        return Replay(loader, batches, name, seed=self.seed, fixed=fixed)

    def _loader(self, stage: str) -> Any:
        """The module's own loader."""
        self.module.trainer = self.trainer
        with seeded(self.seed, 4, STAGES.index(stage)):
            loader = getattr(self.module, f"{stage}_dataloader")()
        parts = loader.values() if isinstance(loader, dict) else loader
        if isinstance(loader, CombinedLoader) or (
            isinstance(loader, list | tuple | dict)
            and any(isinstance(p, DataLoader) for p in parts)
        ):
            raise self._error(f"returns several loaders from {stage}_dataloader; return one")
        return loader

    @cached_property
    def _counts(self) -> dict[str, tuple[int, int]]:
        """The number of rows and of batches in each stage."""
        return {stage: self._count(stage) for stage in STAGES}

    def _count(self, stage: str) -> tuple[int, int]:
        rows = getattr(self.module, "sizes", {}).get(stage)
        if rows == 0 or not self._has(f"{stage}_dataloader"):
            return 0, 0
        loader = self._loader(stage)
        try:
            rows = len(loader.dataset) if rows is None else rows
        except (AttributeError, TypeError) as error:
            raise self._error(
                f"has a {stage}_dataloader without a length; state the number of rows: "
                'sizes = {"train": ..., "val": ..., "test": ...}'
            ) from error
        batches = self._length(loader, rows)
        if not batches:
            raise self._error(f"gives no whole batch of {stage}; lower its size, or keep the last")
        return rows, batches

    def _length(self, loader: Any, rows: int) -> int:
        """The number of batches that a loader has, or that so many rows are."""
        try:
            return len(loader)
        except TypeError as error:
            size = getattr(loader, "batch_size", None) or getattr(self.module, "batch_size", None)
            if not size:
                raise self._error("gives batches of unknown size; state batch_size") from error
            whole = getattr(loader, "drop_last", False)
            return int(rows // size) if whole else math.ceil(rows / size)

    def _has(self, method: str) -> bool:
        return is_overridden(method, self.module, LightningDataModule)

    def _error(self, what: str) -> UserError:
        return UserError(f"data: {type(self.module).__name__} {what}")
