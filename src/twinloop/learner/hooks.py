"""Hooks: functions that see the outputs of modules, and are removed at the end of a block."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from torch import nn


class Hook:
    """Calls `f(hook, module, inputs, output)` after each forward of a module, until it is removed.

    Whatever `f` has to remember may be an attribute of the hook. What it returns is ignored.

    >>> import torch
    >>> def keep_mean(hook, module, inputs, output):
    ...     hook.mean = output.mean()
    >>> module = nn.ReLU()
    >>> with Hook(module, keep_mean) as hook:
    ...     _ = module(torch.tensor([-2.0, 4.0]))
    >>> hook.mean
    tensor(2.)
    """

    def __init__(self, module: nn.Module, f: Callable[..., Any]) -> None:
        self.f = f
        self.handle = module.register_forward_hook(self._call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the hook has no {name!r} yet; its function sets it in a forward")

    def _call(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.f(self, module, inputs, output)  # what a forward hook returns would be the output

    def remove(self) -> None:
        """Call the function no longer."""
        self.handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Hooks:
    """A `Hook` with the function `f` on each of several modules."""

    def __init__(self, modules: Iterable[nn.Module], f: Callable[..., Any]) -> None:
        self.hooks = [Hook(module, f) for module in modules]

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.hooks)

    def __len__(self) -> int:
        return len(self.hooks)

    def __getitem__(self, number: int) -> Hook:
        return self.hooks[number]

    def remove(self) -> None:
        """Call the function no longer."""
        for hook in self.hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
