"""Hooks see what modules give, and are gone after their block."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twinloop.learner import Hook, Hooks


def keep(hook: Any, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    hook.seen = (module, inputs[0].tolist(), output.tolist())
    return output * 100


def test_a_hook_sees_a_forward_and_changes_nothing() -> None:
    module = nn.ReLU()
    with Hook(module, keep) as hook:
        assert module(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
    module(torch.ones(3))
    assert hook.seen == (module, [-1, 2], [0, 2])


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_on_several_modules_are_removed_however_the_block_ends(fails: bool) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU())
    relus = [module for module in model if isinstance(module, nn.ReLU)]
    try:
        with Hooks(relus, keep) as hooks:
            assert len(hooks) == 2
            model(torch.tensor([-1.0]))
            assert [hook.seen[1] for hook in hooks] == [[-1], [0]]
            assert hooks[1].seen[0] is model[2]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not any(module._forward_hooks for module in model)


def test_what_no_forward_has_set_is_an_error_that_says_so() -> None:
    with Hook(nn.ReLU(), keep) as hook, pytest.raises(AttributeError, match="no 'seen' yet"):
        _ = hook.seen
