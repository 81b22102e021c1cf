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

    for times in (1, 2):  # gradients add up until they are zeroed
        learn.predict()
        assert torch.equal(learn.preds, torch.zeros(1, 1))
        learn.get_loss()
        assert learn.loss.item() == 9  # (0 - 3)^2
        learn.backward()
        assert model.weight.grad is not None
        assert torch.equal(model.weight.grad, times * torch.tensor([[-6.0, -12.0]]))  # 2 (0 - 3) x
    learn.step()
    assert torch.equal(model.weight, torch.tensor([[6.0, 12.0]]))
    learn.zero_grad()
    assert model.weight.grad is None
