"""Gradients of -3 and 4 have a norm of 5."""

import pytest
import torch
from torch import Tensor, nn

from twinloop.learner import Callback, DataLoaders, Learner, TrainLearner
from twinloop.learner.callbacks import AccumulateCB, GradientClipCB


def stepped(inputs: list[list[float]], *cbs: Callback) -> Tensor:
    """What one epoch at a rate of 1 takes away from weights of which each input is a gradient."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    train = [(torch.tensor([row]), torch.zeros(1)) for row in inputs]
    learn = TrainLearner(model, DataLoaders(train, []), lambda preds, _: preds.sum(), 1.0, cbs)
    learn.fit(1, valid=False)
    return -model.weight.detach()[0]


@pytest.mark.parametrize(
    ("limit", "algorithm", "expected"),
    [
        (2.5, "norm", [-1.5, 2.0]),
        (5.5, "norm", [-3.0, 4.0]),
        (3.5, "value", [-3.0, 3.5]),
        (1, "value", [-1.0, 1.0]),
    ],
)
def test_by_norm_and_by_value(limit: float, algorithm: str, expected: list[float]) -> None:
    found = stepped([[-3.0, 4.0]], GradientClipCB(limit, algorithm))
    # torch divides by the norm and one millionth.
    assert torch.allclose(found, torch.tensor(expected), rtol=1e-6, atol=0)


def test_a_window_is_clipped_once_as_a_whole() -> None:
    found = stepped([[6.0, 0.0], [0.0, 8.0]], GradientClipCB(1.0), AccumulateCB(2))
    assert torch.allclose(found, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)


def test_the_norm_is_of_all_groups_together() -> None:
    class Groups(Callback):
        def before_fit(self, learn: Learner) -> None:
            weight, bias = learn.model.parameters()
            learn.opt = torch.optim.SGD([{"params": [weight]}, {"params": [bias]}], lr=1.0)

    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    # The gradient of the bias is 4, that of the weight 4 * 0.75.
    train = [(torch.tensor([[0.75]]), torch.zeros(1))]
    cbs = [Groups(), GradientClipCB(1.0)]
    learn = TrainLearner(model, DataLoaders(train, []), lambda preds, _: 4 * preds.sum(), cbs=cbs)
    learn.fit(1, valid=False)
    found = -torch.cat([model.weight[0], model.bias])
    assert torch.allclose(found, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="algorithm is 'max'; it must be 'norm' or 'value'"):
        GradientClipCB(1.0, "max")
