"""The five verbs, one by one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.learner import DataLoaders, Learner, Metric
from twinloop.learner.callbacks import MetricsCB, MixedPrecisionCB, TrainCB


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


def test_a_model_of_several_inputs() -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            """`[B], [B] -> [B]`."""
            return self.weight * x + y

    batch = (torch.ones(3), torch.full((3,), 2.0), torch.full((3,), 4.0))
    for train in (TrainCB(n_inp=2), MixedPrecisionCB(n_inp=2)):
        learn = Learner(Add(), DataLoaders([batch], []), F.mse_loss, 0.5, [train, MetricsCB(Mae())])
        learn.fit(1)
        assert learn.metrics == {"train/loss": 1, "train/mae": 1}
        assert learn.model.weight == 2


class Mae(Metric):
    """The mean absolute error."""

    def calc(self, inps: Tensor, targs: Tensor | None) -> Tensor:
        """The error of a batch."""
        assert targs is not None
        return (inps - targs).abs().mean()
