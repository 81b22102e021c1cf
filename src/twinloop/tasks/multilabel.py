"""Several labels for an image."""

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models.contract import MakesClassifier, create
from twinloop.tasks.schedule import AnySchedule
from twinloop.tasks.task import ImageBatch, Task


class MultiLabel(Task):
    """Binary cross entropy on the logit of each label, with accuracy and F1, means over labels.

    Args:
        network: A class of networks, or a function, that takes `image_shape` and `classes`.
        optimizer: Creates an optimiser from parameters.
        spec: Facts of the data set, filled in from it; its class names are the labels.
        schedule: Learning-rate schedule; the learning rate is constant if unset.
    """

    monitor = "val/f1"
    mode = "max"

    def __init__(
        self,
        network: MakesClassifier,
        optimizer: OptimizerCallable,
        spec: DataSpec,
        schedule: AnySchedule | None = None,
    ) -> None:
        labels = len(spec.class_names)
        if labels < 2:
            raise UserError(
                f"{type(self).__name__} needs the names of at least two labels, and {spec.name} "
                f"has {labels}; set data.target to labels"
            )
        measured: dict[str, Metric] = {
            "accuracy": MultilabelAccuracy(labels, validate_args=False),
            "f1": MultilabelF1Score(labels, validate_args=False),
        }
        metrics = {"train": {}, "val": measured, "test": measured}
        made = create(network, image_shape=spec.image_shape, classes=labels)
        super().__init__(made, optimizer, schedule, spec, metrics)

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]` and ones and zeros `[B, labels]`."""
        return batch

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Binary cross entropy in nats of logits and targets `[B, labels]`, a scalar.

        Raises:
            UserError: the targets are not one number for each label.
        """
        if output.shape != target.shape:
            raise UserError(
                f"the targets have the shape {list(target.shape)}, and not that of the logits, "
                f"{list(output.shape)}; set data.target to labels"
            )
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype))

    def count(self, stage: str, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Count probabilities, since torchmetrics would take small logits for such."""
        super().count(stage, output.sigmoid(), target.long(), loss)
