"""The five verbs, in the plain way."""

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class TrainCB(Callback):
    """Predicts from the first part of a batch, and takes the loss to the second."""

    def predict(self, learn: Learner) -> None:
        """`preds` from the first part of the batch."""
        learn.preds = learn.model(learn.batch[0])

    def get_loss(self, learn: Learner) -> None:
        """`loss` from `preds` and the second part of the batch."""
        learn.loss = learn.loss_func(learn.preds, learn.batch[1])

    def backward(self, learn: Learner) -> None:
        """Add the gradients of `loss` to the parameters."""
        learn.loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learn: Learner) -> None:
        """Move the parameters by the optimiser's rule."""
        learn.opt.step()

    def zero_grad(self, learn: Learner) -> None:
        """Forget the gradients."""
        learn.opt.zero_grad()
