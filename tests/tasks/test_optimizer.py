"""Groups of parameters against the same groups by hand; optimisers that no loop can step."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, AdamW, Muon, Optimizer, Rprop

from twinloop.errors import UserError
from twinloop.tasks import Group, Grouped
from twinloop.tasks.optimizer import Parameters

adamw = partial(AdamW, lr=0.01, weight_decay=0.1)
muon = partial(Muon, lr=0.02)


@pytest.fixture
def network() -> nn.Sequential:
    """Its parameters: 0.weight [3, 4], 0.bias [3], 1.weight [3], 1.bias [3], 2.weight [2, 3]."""
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))


def grouped(network: nn.Module, *groups: Group, optimizer: Any = adamw) -> Grouped:
    return Grouped(Parameters(network), optimizer, list(groups))


def steps(network: nn.Module, *optimizers: Optimizer, count: int = 3) -> dict[str, Tensor]:
    """The weights after some steps; each is one of every optimiser."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(count):
        network.zero_grad()
        network(torch.randn(5, 4, generator=draw)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def sizes(optimizer: Optimizer) -> list[list[int]]:
    return [[p.numel() for p in group["params"]] for group in optimizer.param_groups]


def test_parameters_know_their_names(network: nn.Sequential) -> None:
    parameters = Parameters(network)
    assert parameters.names == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))


def test_a_parameter_is_in_the_first_group_that_it_fits(network: nn.Sequential) -> None:
    made = grouped(
        network,
        Group(ndim=1, weight_decay=0.0),
        Group(names=r"^0\.", lr=0.5),
        Group(names=r"bias|^2", ndim=2, optimizer=muon),
    )
    # What is left comes first, and a group with an optimiser of its own last; here nothing is left.
    assert sizes(made) == [[3, 3, 3], [12], [6]]
    assert [(g["lr"], g["weight_decay"]) for g in made.param_groups] == [
        (0.01, 0.0),
        (0.5, 0.1),
        (0.02, 0.1),
    ]
    assert [type(part) for part in made.parts] == [AdamW, Muon]
    assert sizes(grouped(network, Group(ndim=1, lr=0.1))) == [[12, 6], [3, 3, 3]]


def test_groups_step_as_their_optimisers_do_by_hand(network: nn.Sequential) -> None:
    start = {name: weight.clone() for name, weight in network.state_dict().items()}
    groups = Group(ndim=1, weight_decay=0.0), Group(names=r"^0\.", optimizer=muon)
    found = steps(network, grouped(network, *groups))
    network.load_state_dict(start)
    first, *flat, last = network.parameters()
    plain: list[dict[str, Any]] = [{"params": [last]}, {"params": flat, "weight_decay": 0.0}]
    by_hand = adamw(plain), muon([first])
    for name, weight in steps(network, *by_hand).items():
        assert torch.equal(weight, found[name]), name
        assert not torch.equal(weight, start[name]), name


def test_a_restored_optimiser_steps_as_the_saved_one(network: nn.Sequential) -> None:
    groups = Group(ndim=1, lr=0.1), Group(names=r"^0\.", optimizer=muon)
    saved = grouped(network, *groups)
    start = steps(network, saved)
    state = deepcopy(saved.state_dict())  # which goes on with the tensors
    assert sorted(state["state"]) == [0, 1, 2, 3, 4]
    wanted = steps(network, saved)
    network.load_state_dict(start)
    restored = grouped(network, *groups)
    restored.load_state_dict(state)
    for name, weight in steps(network, restored).items():
        assert torch.equal(weight, wanted[name]), name
    for group in restored.param_groups:  # as a scheduler does
        group["lr"], group["weight_decay"] = 0.0, 0.0
    for name, weight in steps(network, restored).items():
        assert torch.equal(weight, wanted[name]), name


def test_a_closure_computes_the_gradients_first(network: nn.Sequential) -> None:
    made = grouped(network, Group(ndim=2, optimizer=muon))

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        loss: Tensor = network(torch.ones(1, 4)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before, loss = deepcopy(network.state_dict()), network(torch.ones(1, 4)).sum()
    assert torch.equal(made.step(closure), loss)
    assert not any(torch.equal(before[name], now) for name, now in network.state_dict().items())


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            Group(names="^3", lr=0.1),
            r"left with names '\^3' and ndim None; those left, .* 0\.weight \(2\), .*; "
            "correct the group, or give this network another optimiser",
        ),
        (Group(names="^0", ndim=3), r"left with names '\^0' and ndim 3;"),
        (Group(names="("), r"names is '\(': "),
        (Group(ndim=1, weight_decay=0.1, optimizer=Rprop), "Rprop has no weight_decay; unset it"),
        (Group(ndim=1, optimizer=LBFGS), "LBFGS computes the loss several times a step, and canno"),
    ],
)
def test_a_group_that_cannot_be_made_is_refused(
    group: Group, message: str, network: nn.Sequential
) -> None:
    with pytest.raises(UserError, match=rf"model\.optimizer.*{message}"):
        grouped(network, group)


def test_groups_need_names(network: nn.Sequential) -> None:
    with pytest.raises(TypeError, match=r"pass Parameters\(network\)"):
        Grouped(network.parameters(), adamw, [])
