"""Parameters in groups: each with options or an optimiser of its own, and all stepped as one."""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from twinloop.errors import UserError, as_user_error


class Parameters(list[nn.Parameter]):
    """The parameters of a network, and their `names` for an optimiser that asks for them.

    Without those that are frozen, which BackboneFinetuning adds later.
    """

    def __init__(self, network: nn.Module) -> None:
        named = {
            name: weight for name, weight in network.named_parameters() if weight.requires_grad
        }
        super().__init__(named.values())
        self.names = list(named)


@dataclass
class Group:
    """Parameters of a network, and what is different for them.

    Args:
        names: A regular expression that is found in the name of a parameter.
        ndim: The number of its dimensions: 1 for biases and norms, 2 for the weights of linear
            layers, 4 for those of convolutions.
        lr: Their learning rate.
        weight_decay: Their weight decay.
        optimizer: Creates an optimiser of their own.
    """

    names: str = ""
    ndim: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    optimizer: OptimizerCallable | None = None

    def taken(self, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
        """Take the parameters of the group out of `parameters`, as a group of an optimiser.

        Raises:
            UserError: there are none.
        """
        with as_user_error(f"model.optimizer.groups: names is {self.names!r}"):
            names = re.compile(self.names)
        found = [
            name
            for name, parameter in parameters.items()
            if names.search(name) and self.ndim in (None, parameter.ndim)
        ]
        if not found:
            left = [f"{name} ({p.ndim})" for name, p in parameters.items()]
            raise UserError(
                f"model.optimizer.groups: no parameter is left with names {self.names!r} and ndim "
                f"{self.ndim}; those left, with their ndim: {', '.join(left[:8])}"
                f"{', ...' if left[8:] else ''}; correct the group, or give this network another "
                "optimiser, such as model.optimizer: torch.optim.AdamW"
            )
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        options = {name: value for name, value in given.items() if value is not None}
        return {"params": [parameters.pop(name) for name in found]} | options


class Grouped(Optimizer):
    """An optimiser for most parameters, and groups that have other options or optimisers.

    Args:
        params: The `Parameters` of a network, which a task passes.
        optimizer: Creates the optimiser of the parameters in no group, and of the groups without
            one of their own.
        groups: The groups; a parameter is in the first one that it fits.

    Raises:
        UserError: a group of no parameters, an option that its optimiser does not have, or an
            optimiser that cannot be stepped with others.
        TypeError: parameters without names.
    """

    def __init__(
        self, params: Iterable[Tensor], optimizer: OptimizerCallable, groups: list[Group]
    ) -> None:
        if not isinstance(params, Parameters):
            raise TypeError("Grouped needs the names of its parameters; pass Parameters(network)")
        left = dict(zip(params.names, params, strict=True))
        made = [(group.optimizer, group.taken(left)) for group in groups]
        main = [{"params": list(left.values())}] * bool(left)
        main += [options for own, options in made if own is None]
        self.parts = [optimizer(main)] if main else []
        self.parts += [own([options]) for own, options in made if own is not None]
        for part in self.parts:
            _check_part(part)
        every = [group for part in self.parts for group in part.param_groups]
        super().__init__(every, self.parts[0].defaults)
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # also called by load_state_dict
        self._share()

    def _share(self) -> None:
        """Give each part its groups, and the state of all parameters."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = list(islice(groups, len(part.param_groups)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each part; `closure` computes the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def _check_part(part: Optimizer) -> None:
    """Refuse an optimiser with unknown options, or one that others cannot be stepped beside."""
    check_optimizer(part)
    name = type(part).__name__
    if needs_closure(part):
        raise UserError(
            f"model.optimizer: {name} computes the loss several times a step, and cannot be "
            "stepped with other groups; use it for all parameters"
        )
    for option in ("lr", "weight_decay"):
        if option not in part.defaults and any(option in group for group in part.param_groups):
            raise UserError(f"model.optimizer.groups: {name} has no {option}; unset it")


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether its step computes the loss itself, several times, as that of LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def check_optimizer(optimizer: Optimizer, *, exchanged: bool = False) -> None:
    """Refuse an optimiser that automatic optimisation would step wrongly.

    Args:
        optimizer: The optimiser.
        exchanged: Whether somebody calls its `train` and `eval`, if it has them.

    Raises:
        UserError: one that takes two steps for a batch (SAM), or has other weights for validation
            (schedule-free).
    """
    name = type(optimizer).__name__
    if hasattr(optimizer, "first_step"):
        raise UserError(
            f"model.optimizer: {name} needs two gradients of each batch (first_step, second_step), "
            "and both loops compute one; use another optimiser"
        )
    if not exchanged and hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        raise UserError(
            f"model.optimizer: {name} has other weights for validation and checkpoints, and "
            "neither loop calls its train() and eval(); use another one, or train it by Lightning "
            "with a callback of yours that calls them"
        )
