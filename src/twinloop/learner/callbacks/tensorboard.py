"""Scalars for TensorBoard, by the tags that Lightning's logger uses."""

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.learner.callback import Callback, Order
from twinloop.learner.learner import Learner


class TensorBoardCB(Callback):
    """Writes loss and learning rate every few steps, and every metric at the end of its pass.

    Lightning: `TensorBoardLogger`, `LearningRateMonitor`. The x axis is in steps of the optimiser.

    Args:
        writer: Writes to the folder of the run.
        every: Steps from one point of a curve to the next; with 0 there are none.

    Raises:
        TypeError: no writer.
    """

    order = Order.REPORT
    opt_needs = ("param_groups",)

    def __init__(self, writer: SummaryWriter, every: int = 10) -> None:
        if not hasattr(writer, "add_scalar"):
            raise TypeError(f"writer is {writer!r}; it must be a SummaryWriter(folder)")
        self.writer = writer
        self.every = every
        self.at = 0

    def before_epoch(self, learn: Learner) -> None:
        """Begin with the latest step, also where a run is resumed inside an epoch."""
        if learn.training:
            self.at = max(learn.steps - 1, 0)

    def before_batch(self, learn: Learner) -> None:
        """Write the learning rates of the next step."""
        if learn.training:
            self.at = learn.steps
            if self.is_due():
                name, groups = type(learn.opt).__name__, learn.opt.param_groups
                for number, group in enumerate(groups, start=1):
                    tag = f"lr-{name}/pg{number}" if len(groups) > 1 else f"lr-{name}"
                    self.writer.add_scalar(tag, group["lr"], self.at)

    def after_loss(self, learn: Learner) -> None:
        self.loss = learn.loss.detach()

    def after_batch(self, learn: Learner) -> None:
        """Write the loss of a batch that ended in a step."""
        if learn.training and learn.steps > self.at and self.is_due():
            self.write(learn, {"train/loss_step": float(self.loss)})

    def after_epoch(self, learn: Learner) -> None:
        """Write the metrics of the pass; those of train at the latest step."""
        if learn.training:
            self.at = learn.steps - 1
        stage = f"{learn.stage}/"
        self.write(learn, {k: float(v) for k, v in learn.metrics.items() if k.startswith(stage)})

    def cleanup_fit(self, learn: Learner) -> None:
        self.writer.flush()

    def is_due(self) -> bool:
        """Whether this step has a point on the curves."""
        return self.every > 0 and (self.at + 1) % self.every == 0

    def write(self, learn: Learner, scalars: dict[str, float]) -> None:
        """Write scalars by tag, and the epoch, at the present step."""
        for tag, value in (scalars | {"epoch": learn.epoch}).items():
            self.writer.add_scalar(tag, value, self.at)
