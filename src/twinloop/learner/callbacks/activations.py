"""Statistics of activations, to see whether the layers are alive."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from twinloop import figures
from twinloop.learner.callback import Callback
from twinloop.learner.hooks import Hook
from twinloop.learner.learner import Learner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 50


class ActivationStatsCB(Callback):
    """Mean, standard deviation and histogram of the outputs of modules, for every batch of train.

    Args:
        select: The types of the modules; all ReLUs by default.
    """

    def __init__(self, select: type[nn.Module] | tuple[type[nn.Module], ...] = nn.ReLU) -> None:
        self.select = select
        self.hooks: list[Hook] = []
        self._stats: dict[str, list[Tensor]] = {}
        self._histograms: dict[str, list[Tensor]] = {}

    def before_fit(self, learn: Learner) -> None:
        self._stats.clear()
        self._histograms.clear()
        for name, module in learn.model.named_modules():
            if isinstance(module, self.select):
                self._stats[name], self._histograms[name] = [], []
                self.hooks.append(Hook(module, partial(self._watch, name)))

    def cleanup_fit(self, learn: Learner) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Mean and standard deviation by module, `[batches, 2]`."""
        return {name: torch.stack(rows) for name, rows in self._stats.items()}

    @property
    def histograms(self) -> dict[str, Tensor]:
        """Counts of absolute values by module, `[batches, 50]`: from 0 to 10 or above."""
        return {name: torch.stack(rows) for name, rows in self._histograms.items()}

    def plot(self) -> "Figure":
        """Means, deviations, shares near 0 (below 0.2) and histograms over the batches."""
        return figures.activations(self.stats, self.histograms)

    def _watch(
        self, name: str, hook: Hook, module: nn.Module, inputs: tuple[Tensor], output: Tensor
    ) -> None:
        if module.training:
            values = output.detach().float()
            self._stats[name].append(torch.stack([values.mean(), values.std()]).cpu())
            magnitudes = values.abs().clamp(max=10)
            self._histograms[name].append(torch.histc(magnitudes, BINS, 0, 10).cpu())
