"""The Learner: `fit -> one_epoch -> one_batch`, and callbacks around each of them.

What the loop does with a batch is five verbs that it does not define: predict, get_loss, backward,
step and zero_grad. `TrainCB` answers all five in the plain way, `MixedPrecisionCB` some of them
otherwise, and a `TrainLearner` needs neither.

>>> from twinloop.learner.callbacks import MetricsCB
>>> model = nn.Linear(2, 2, bias=False)
>>> model.weight.data = torch.zeros(2, 2)
>>> batches = [(torch.eye(2), torch.tensor([0, 1]))] * 20
>>> learn = TrainLearner(model, DataLoaders(batches, batches), lr=1.0, cbs=[MetricsCB()])
>>> learn.fit(1)
>>> {name: round(float(value), 3) for name, value in learn.metrics.items()}
{'train/loss': 0.172, 'val/loss': 0.051}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.learner.callback import Callback, HasCallbacks, with_cbs
from twinloop.learner.simple import DataLoaders

LossFunc = Callable[[Tensor, Tensor], Tensor]
"""`(preds, yb) -> one number`, the mean over the batch."""
OptFunc = Callable[..., torch.optim.Optimizer]
"""Makes an optimiser of parameters and a learning rate, for the first fit.

Later fits go on with it, whatever `lr` is by then: its `param_groups` have the rate, and where
`opt` is set to None a fit makes a new one.
"""
Cbs = Sequence[Callback]


@dataclass(eq=False)
class Learner(HasCallbacks):
    """Trains `model: xb -> preds`; everything but the bare loop is a callback's."""

    model: nn.Module
    dls: DataLoaders
    loss_func: LossFunc = F.cross_entropy
    lr: float = 0.1
    cbs: Cbs = ()
    opt_func: OptFunc = torch.optim.SGD

    def fit(self, n_epochs: int = 1, train: bool = True, valid: bool = True, cbs: Cbs = ()) -> None:
        """Go through train, then valid, `n_epochs` times; with `cbs` for this fit only."""
        with self.with_more(cbs):
            self.opt = self.opt or self.opt_func(self.model.parameters(), self.lr)
            self.epoch, self.n_epochs, self.stopping = 0, n_epochs, False
            self.passes = (True,) * train + (False,) * valid
            self._fit()

    @with_cbs("fit")
    def _fit(self) -> None:
        while self.epoch < self.n_epochs and not self.stopping:
            for training in self.passes:
                self.one_epoch(training)
            self.epoch += 1

    def one_epoch(self, training: bool) -> None:
        """Go once through train, or through valid without gradients."""
        self.training = training
        self.model.train(training)
        self.dl = self.dls.train if training else self.dls.valid
        self.num, self.n_batches = 0, len(self.dl)
        with torch.set_grad_enabled(training):
            self._one_epoch()

    @with_cbs("epoch")
    def _one_epoch(self) -> None:
        batches = islice(self.dl, self.num, None)  # is never asked for a batch too many
        while self.num < self.n_batches and not (self.training and self.stopping):
            self.batch = next(batches)
            self.one_batch()
            self.num += 1

    @with_cbs("batch")
    def one_batch(self) -> None:
        """Do the five verbs; for valid only the first two."""
        self.predict()
        self.callback("after_predict")
        self.get_loss()
        self.callback("after_loss")
        if self.training:
            self.backward()
            self.callback("after_backward")
            self._one_step()

    @with_cbs("step")
    def _one_step(self) -> None:
        self.step()
        self.zero_grad()
        self.steps += 1


class TrainLearner(Learner):
    """A Learner that does the five verbs itself, in the plain way."""

    def predict(self) -> None:
        """`preds` from the first part of the batch."""
        self.preds = self.model(self.batch[0])

    def get_loss(self) -> None:
        """`loss` from `preds` and the second part of the batch."""
        self.loss = self.loss_func(self.preds, self.batch[1])

    def backward(self) -> None:
        """Add the gradients of `loss` to the parameters."""
        self.loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Move the parameters by the optimiser's rule."""
        self.opt.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.opt.zero_grad()


@dataclass(eq=False)
class MomentumLearner(TrainLearner):
    """Keeps `momentum` of the gradient from step to step, where others forget it.

    With plain SGD that is SGD with momentum (Polyak 1964): g <- momentum * g + gradient.
    """

    momentum: float = 0.85

    def zero_grad(self) -> None:
        """Keep a part of the gradients; the next backward adds to it."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.momentum
