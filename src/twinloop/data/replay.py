"""Batches of anybody's loader, the same for the same (seed, epoch)."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from twinloop.data.resumable import Resumable
from twinloop.data.split import generator, seeded
from twinloop.errors import UserError

SAMPLE = 1024
"""Values of each tensor of a batch that its digest is made of, at most."""
END = object()


class Replay(Resumable):
    """The batches of `loader`, with all its random values a function of (seed, epoch, batch).

    The global generators of torch, NumPy and Python, and a generator that the loader was given, are
    seeded for every batch, and those of the network are left alone. So the order of an epoch can be
    repeated: a run that is resumed inside an epoch loads the batches before its position again.

    Args:
        loader: A DataLoader, or any other iterable of batches.
        length: The number of batches in an epoch.
        name: What `loader` is, for errors.
        seed: The seed of the run.
        fixed: Whether every pass repeats the first epoch.
    """

    def __init__(
        self, loader: Iterable[Any], length: int, name: str, *, seed: int, fixed: bool = False
    ) -> None:
        super().__init__(seed)
        self.loader, self.length, self.name, self.fixed = loader, length, name, fixed
        self.digest = 0
        self._expected: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        first, epoch = self._first(), self.epoch
        batches: Iterator[Any] | None = None
        for number in range(len(self)):
            with seeded(self.seed, 2, 0 if self.fixed else epoch, number):
                if batches is None:
                    batches = self._begin(0 if self.fixed else epoch)
                batch = next(batches, END)
            if batch is END:
                raise UserError(
                    f"{self.name} ended after {number} batches of {len(self)}; state its true size"
                )
            digest = _digest(batch)
            self._check(epoch, number + 1, digest)
            if number >= first:
                self.position, self.digest = number + 1, digest
                yield batch

    def rows_of(self, number: int) -> None:
        return None

    def state_dict(self) -> dict[str, int]:
        """The position, and inside an epoch what the last batch was."""
        inside = 0 < self.position < len(self)
        return super().state_dict() | ({"digest": self.digest} if inside else {})

    def expect(self, state: dict[str, int]) -> None:
        super().expect(state)
        self.digest = state.get("digest", 0)
        if "digest" in state:
            self._expected = state["epoch"], state["position"], state["digest"]

    def _begin(self, epoch: int) -> Iterator[Any]:
        """Start a pass, with the generators and the epoch of everything that has them."""
        loader: Any = self.loader
        parts = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
        for part in (loader, *parts, getattr(parts[1], "sampler", None)):
            if isinstance(own := getattr(part, "generator", None), torch.Generator):
                own.manual_seed(generator(self.seed, 3, epoch).initial_seed())
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        if getattr(loader, "persistent_workers", False):
            loader._iterator = None  # the workers' generators would go on from the last pass
        return iter(loader)

    def _check(self, epoch: int, position: int, digest: int) -> None:
        """Refuse to resume with other batches than the run has seen."""
        if self._expected is None or self._expected[:2] != (epoch, position):
            return
        if digest != self._expected[2]:
            raise UserError(
                f"{self.name} cannot be resumed inside epoch {epoch + 1}, since its batch "
                f"{position} is another one than before: its order or its values do not depend on "
                "the generators of torch, NumPy and Python alone; begin a new run with --weights"
            )
        self._expected = None


def _digest(batch: Any) -> int:
    """A checksum of a sample of the values of a batch, nearly surely another for another batch."""
    digest = 0
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            values = leaf.detach().flatten()
            values = values[:: max(1, len(values) // SAMPLE)].contiguous().cpu()
            digest = zlib.crc32(values.view(torch.uint8).numpy().tobytes(), digest)
        else:
            digest = zlib.crc32(str(leaf).encode(), digest)
    return digest
