"""The five verbs, one by one."""

import torch
from torch import nn
from torch.nn import functional as F

from twinloop.learner import DataLoaders, Learner
from twinloop.learner.callbacks import TrainCB


def test_each_verb_does_its_part() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    learn = Learner(model, DataLoaders([], []), F.mse_loss, lr=0.5, cbs=[TrainCB()])
    learn.opt = torch.optim.SGD(model.parameters(), lr=0.5)
    learn.batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]))

    learn.predict()
    assert torch.equal(learn.preds, torch.zeros(1, 1))
    learn.get_loss()
    assert learn.loss.item() == 9  # (0 - 3)^2
    learn.backward()
    assert torch.equal(grad(model), torch.tensor([[-6.0, -12.0]]))  # 2 (0 - 3) x
    learn.step()
    assert torch.equal(model.weight, torch.tensor([[3.0, 6.0]]))
    learn.zero_grad()
    assert model.weight.grad is None


def test_gradients_add_up_until_they_are_zeroed() -> None:
    model = nn.Linear(1, 1, bias=False)
    learn = Learner(model, DataLoaders([], []), cbs=[TrainCB()])
    for factor in (1.0, 2.0):
        learn.loss = factor * model.weight.sum()
        learn.backward()
    assert grad(model).item() == 3


def grad(model: nn.Linear) -> torch.Tensor:
    assert model.weight.grad is not None
    return model.weight.grad
