"""The Learner: `fit -> one_epoch -> one_batch`, and callbacks around each of them.

What the loop does with a batch is five verbs that it does not define: predict, get_loss, backward,
step and zero_grad. `TrainCB` implements all five, `MixedPrecisionCB` replaces some of them, and a
`TrainLearner` needs neither.

>>> from twinloop.learner.callbacks import MetricsCB
>>> model = nn.Linear(2, 2, bias=False)
>>> model.weight.data = torch.zeros(2, 2)
>>> batches = [(torch.eye(2), torch.tensor([0, 1]))] * 20
>>> learn = TrainLearner(model, DataLoaders(batches, batches), lr=1.0, cbs=[MetricsCB()])
>>> learn.fit(1)
>>> {name: round(float(value), 3) for name, value in learn.metrics.items()}
{'train/loss': 0.172, 'val/loss': 0.051}
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.learner import prompt
from twinloop.learner.callback import VERBS, call, run_cbs, with_also, with_cbs
from twinloop.learner.lesson import hint, refuse
from twinloop.learner.loaders import DataLoaders, forward
from twinloop.learner.optimizer import begin_optimizer, whole_step
from twinloop.learner.simple import set_epoch

Cb = Any  # a Callback, or several; in `learn.cbs` a list of them
Lr = float | None
NUMBERS = count()


@dataclass(eq=False)
class Learner:
    """Trains a model; everything but the bare loop is a callback's.

    Args:
        model: `xb -> preds`.
        dls: Batches `(xb, yb)` of train and of valid.
        loss_func: `(preds, yb) -> scalar`, the mean over the batch.
        lr: The learning rate that a fit begins with.
        cbs: The callbacks of every fit.
        opt_func: Makes an optimiser of parameters and `lr`, in every fit a new one.
    """

    model: nn.Module
    dls: DataLoaders
    loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    lr: float = 0.1
    cbs: Cb = ()
    opt_func: Callable[..., torch.optim.Optimizer] = torch.optim.SGD

    def __post_init__(self) -> None:
        given, self.cbs, self.dls = self.cbs, [], DataLoaders.of(self.dls)
        self.number = next(NUMBERS)  # which Learner of this process it is
        self.add_cb(given)
        self.opt: Any = None  # without it the next fit forgets the momentum of the last one
        self.metrics: dict[str, Tensor] = {}  # of this fit, the latest of each name
        self.passes: tuple[bool, ...] = (True, False)  # the values of `training` in an epoch
        self.training = True  # whether this pass goes through train, or through valid
        self.batch: Any  # (xb, yb)
        self.preds: Tensor
        self.loss: Tensor
        self.epoch = self.n_epochs = self.num = self.n_batches = 0  # at batch `num` of `n_batches`
        self.steps = self.began = self.past = 0  # steps in all; steps, epochs before this fit
        self.stopping = False  # set by a callback to end epoch and fit after this batch

    @property
    def stage(self) -> str:
        """'train' or 'val': what this pass goes through."""
        return "train" if self.training else "val"

    @property
    def ends_epoch(self) -> bool:
        """Whether this pass is the epoch's last, after which all its metrics are known."""
        return self.training == self.passes[-1]

    def fit(
        self, n_epochs: int = 1, train: bool = True, valid: bool = True, cbs: Cb = (), lr: Lr = None
    ) -> None:
        """Go `n_epochs` times through train, then valid; `cbs` and `lr` are for this fit only.

        Begins with the rate, the optimiser and the schedules that the Learner has now. From the
        last fit it keeps weights, `steps` and, by the same `opt_func`, the optimiser's momentum.

        Raises:
            TypeError: a verb that nobody implements or two do, or a method named like an event.
        """
        with with_also(self, cbs):
            begin_optimizer(self, lr)
            self.past, self.began = self.past + self.epoch, self.steps
            self.epoch, self.n_epochs, self.stopping, self.metrics = 0, n_epochs, False, {}
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
        set_epoch(self.dl, self.past + self.epoch)
        self.num, self.n_batches = 0, len(self.dl)
        with torch.set_grad_enabled(training):
            self._one_epoch()

    @with_cbs("epoch")
    def _one_epoch(self) -> None:
        batches = islice(self.dl, self.num, None)  # loads no batch that is not used
        while self.num < self.n_batches and not (self.training and self.stopping):
            self.batch = next(batches)
            self.one_batch()
            self.num += 1

    @with_cbs("batch")
    def one_batch(self) -> None:
        """Apply the five verbs to `batch`; for valid only the first two."""
        self.predict()
        self.callback("after_predict")
        self.get_loss()
        self.callback("after_loss")
        if self.training:
            with whole_step(self):
                self.backward()
                self.callback("after_backward")
                self._one_step()

    @with_cbs("step")
    def _one_step(self) -> None:
        self.step()
        self.zero_grad()
        self.steps += 1

    def callback(self, event: str) -> None:
        """Call the method `event` of every callback that has one."""
        run_cbs(self.cbs, event, self)

    def __getattr__(self, name: str) -> Any:  # only for what Python does not find elsewhere
        for cb in self.cbs if name in VERBS else ():
            if hasattr(cb, name):
                return partial(call, cb, name, self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint(name)}")

    add_cb, rm_cb, lr_find = prompt.add_cb, prompt.rm_cb, prompt.lr_find
    summary, __repr__ = prompt.summary_of, prompt.text_of


class TrainLearner(Learner):
    """A Learner that implements the five verbs itself, as `TrainCB` does."""

    def predict(self) -> None:
        self.preds = forward(self.model, self.batch[0])

    def get_loss(self) -> None:
        self.loss = self.loss_func(self.preds, self.batch[1])

    def backward(self) -> None:
        self.loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.opt.step()

    def zero_grad(self) -> None:
        self.opt.zero_grad()


@dataclass(eq=False, repr=False)
class MomentumLearner(TrainLearner):
    """Keeps a share `momentum` of each gradient for the next step instead of resetting it.

    With plain SGD this is SGD with momentum (Polyak 1964): g <- momentum * g + gradient.
    """

    momentum: float = 0.85

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Refuse the lesson's name for `momentum`."""
        refuse(options, mom="momentum")
        return super().__new__(cls)

    def zero_grad(self) -> None:
        """Scale the gradients down; the next backward adds to them."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.momentum
