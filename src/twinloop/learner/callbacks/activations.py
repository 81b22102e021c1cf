"""Statistics of activations, to see whether the layers are alive."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner

BINS = 50


class ActivationStatsCB(Callback):
    """Mean, standard deviation and histogram of the outputs of modules, for every batch of train.

    Args:
        select: The types of the modules; all ReLUs by default.
    """

    def __init__(self, select: type[nn.Module] | tuple[type[nn.Module], ...] = nn.ReLU) -> None:
        self.select = select
        self.handles: list[RemovableHandle] = []
        self._stats: dict[str, list[Tensor]] = {}
        self._histograms: dict[str, list[Tensor]] = {}

    def before_fit(self, learn: Learner) -> None:
        self._stats.clear()
        self._histograms.clear()
        for name, module in learn.model.named_modules():
            if isinstance(module, self.select):
                self._stats[name], self._histograms[name] = [], []
                self.handles.append(module.register_forward_hook(partial(self._watch, name)))

    def cleanup_fit(self, learn: Learner) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Mean and standard deviation by module, `[batches, 2]`."""
        return {name: torch.stack(rows) for name, rows in self._stats.items()}

    @property
    def histograms(self) -> dict[str, Tensor]:
        """Counts of absolute values from 0 to 10 by module, `[batches, 50]`."""
        return {name: torch.stack(rows) for name, rows in self._histograms.items()}

    def _watch(self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if module.training:
            values = output.detach().float()
            self._stats[name].append(torch.stack([values.mean(), values.std()]).cpu())
            self._histograms[name].append(torch.histc(values.abs(), BINS, 0, 10).cpu())
