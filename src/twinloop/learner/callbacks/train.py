"""The five verbs of plain training."""

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner
from twinloop.learner.loaders import forward


class TrainCB(Callback):
    """Predicts from the first part of a batch, and compares with the second part.

    Args:
        n_inp: How many parts of a batch are the model's inputs; the next one is the target.
    """

    def __init__(self, n_inp: int = 1) -> None:
        self.n_inp = n_inp

    def predict(self, learn: Learner) -> None:
        """Set `preds` from the first parts of the batch."""
        learn.preds = forward(learn.model, *learn.batch[: self.n_inp])

    def get_loss(self, learn: Learner) -> None:
        """Set `loss` from `preds` and the target."""
        learn.loss = learn.loss_func(learn.preds, learn.batch[self.n_inp])

    def backward(self, learn: Learner) -> None:
        """Add the gradients of `loss` to those of the parameters."""
        learn.loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learn: Learner) -> None:
        """Update the parameters."""
        learn.opt.step()

    def zero_grad(self, learn: Learner) -> None:
        """Reset the gradients."""
        learn.opt.zero_grad()
