"""The lesson's first Learner, on one screen: fit -> one_epoch -> one_batch, and nothing else.

Read it before `twinloop.learner.learner`, which grew from this one in three steps: what is done
with a batch became five verbs that others may implement (`predict`, `get_loss`, `backward`, `step`,
`zero_grad`), what is measured became metrics, and whatever else a run needs became callbacks, which
are called before and after each of the three loops.

>>> model = nn.Linear(2, 2, bias=False)
>>> model.weight.data = torch.zeros(2, 2)
>>> batches = [(torch.eye(2), torch.tensor([0, 1]))] * 20
>>> learn = SimpleLearner(model, DataLoaders(batches, batches), F.cross_entropy, lr=1.0)
>>> learn.fit(1)
epoch 0 train loss 0.172 accuracy 0.975
epoch 0 valid loss 0.051 accuracy 1.000
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinloop.learner.loaders import DataLoaders, forward


def set_epoch(dl: Any, epoch: int) -> None:
    """Tell a loader, or its sampler, that shuffles by the epoch's number which epoch is next."""
    batch_sampler = getattr(dl, "batch_sampler", None)
    parts: list[Any] = [dl, getattr(dl, "sampler", None), getattr(batch_sampler, "sampler", None)]
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


class SimpleLearner:
    """Trains a classifier by stochastic gradient descent and prints loss and accuracy.

    Args:
        model: `xb -> logits [B, classes]`.
        dls: The batches of train and valid.
        loss_func: `(logits, yb) -> scalar`, the mean over the batch.
        lr: The learning rate.
        opt_func: Makes an optimiser of parameters and a learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        dls: DataLoaders,
        loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        lr: float = 0.1,
        opt_func: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    ) -> None:
        self.model, self.dls, self.loss_func = model, DataLoaders.of(dls), loss_func
        self.lr, self.opt_func = lr, opt_func
        self.epochs = 0  # of all fits

    def fit(self, n_epochs: int) -> None:
        """Train for `n_epochs`, validating after each."""
        self.opt = self.opt_func(self.model.parameters(), self.lr)
        for self.epoch in range(n_epochs):
            set_epoch(self.dls.train, self.epochs)
            self.one_epoch(True)
            with torch.no_grad():
                self.one_epoch(False)
            self.epochs += 1

    def one_epoch(self, training: bool) -> None:
        """Go once through all batches of train or of valid."""
        self.model.train(training)
        self.losses, self.hits, self.ns = [], [], []  # type: ignore[var-annotated]
        dl: Iterable[Sequence[Tensor]] = self.dls.train if training else self.dls.valid
        for self.batch in dl:
            self.one_batch()
        n = sum(self.ns)
        loss = sum(loss * k for loss, k in zip(self.losses, self.ns, strict=True)) / n
        stage = "train" if training else "valid"
        print(f"epoch {self.epoch} {stage} loss {loss:.3f} accuracy {sum(self.hits) / n:.3f}")

    def one_batch(self) -> None:
        """Predict, compute loss and accuracy, and in training take a step."""
        xb, yb, *_ = self.batch
        preds = forward(self.model, xb)
        loss = self.loss_func(preds, yb)
        if self.model.training:
            loss.backward()  # type: ignore[no-untyped-call]
            self.opt.step()
            self.opt.zero_grad()
        with torch.no_grad():
            self.losses.append(loss.item())
            self.hits.append(int((preds.argmax(1) == yb).sum()))
            self.ns.append(len(yb))
