"""Scalars for TensorBoard, by the tags that Lightning's logger uses."""

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.learner.callback import Callback
from twinloop.learner.learner import Learner


class TensorBoardCB(Callback):
    """Writes loss and learning rate every few steps, and every metric at the end of its pass.

    Lightning: `TensorBoardLogger`, `LearningRateMonitor`. Both count batches that stepped on the
    x axis.

    Args:
        writer: Where to.
        every: How many steps lie between two points of a curve; with 0 it has none.
    """

    follows = ("MetricsCB",)
    precedes = ("AccumulateCB", "ValidateCB")

    def __init__(self, writer: SummaryWriter, every: int = 10) -> None:
        self.writer = writer
        self.every = every
        self.at = 0

    def before_epoch(self, learn: Learner) -> None:
        """Begin with the last step that was taken, also where a run goes on in an epoch."""
        if learn.training:
            self.at = max(learn.steps - 1, 0)

    def before_batch(self, learn: Learner) -> None:
        """Write the learning rates that the next step is going to use."""
        if learn.training:
            self.at = learn.steps
            if self.is_due():
                name, groups = type(learn.opt).__name__, learn.opt.param_groups
                for number, group in enumerate(groups, start=1):
                    tag = f"lr-{name}/pg{number}" if len(groups) > 1 else f"lr-{name}"
                    self.writer.add_scalar(tag, group["lr"], self.at)

    def after_loss(self, learn: Learner) -> None:
        """Remember the loss before anyone divides it."""
        self.loss = learn.loss.detach()

    def after_batch(self, learn: Learner) -> None:
        """Write the loss of the batch, if it ended in a step."""
        if learn.training and learn.steps > self.at and self.is_due():
            self.write(learn, {"train/loss_step": float(self.loss)})

    def after_epoch(self, learn: Learner) -> None:
        """Write the metrics of the pass; those of train at the last step that was taken."""
        if learn.training:
            self.at = learn.steps - 1
        stage = f"{learn.stage}/"
        self.write(learn, {k: float(v) for k, v in learn.metrics.items() if k.startswith(stage)})

    def cleanup_fit(self, learn: Learner) -> None:
        """Leave nothing unwritten."""
        self.writer.flush()

    def is_due(self) -> bool:
        """Whether this step has a point on the curves."""
        return self.every > 0 and (self.at + 1) % self.every == 0

    def write(self, learn: Learner, numbers: dict[str, float]) -> None:
        """Write numbers at the present step, and which epoch that is."""
        for tag, number in (numbers | {"epoch": learn.epoch}).items():
            self.writer.add_scalar(tag, number, self.at)
