"""Image classification."""

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models.contract import MakesClassifier, check_output, create
from twinloop.tasks.schedule import AnySchedule
from twinloop.tasks.task import ImageBatch, Task


class Classification(Task):
    """Cross entropy on logits, with accuracy, accuracy by class, and the confusion matrix.

    Args:
        network: A class of networks, or a function, that takes `image_shape` and `classes`.
        optimizer: Creates an optimiser from parameters.
        spec: Facts of the data set, filled in from it.
        schedule: Learning-rate schedule, or creates a scheduler of torch from an optimiser; the
            learning rate is constant if unset.
        label_smoothing: Share of the target that is spread over all classes, in training only.
        tta_flip: In evaluation, use the mean of the logits of an image and its mirror image.
    """

    monitor = "val/accuracy"
    needs_labels = True
    mode = "max"

    def __init__(
        self,
        network: MakesClassifier,
        optimizer: OptimizerCallable,
        spec: DataSpec,
        schedule: AnySchedule | None = None,
        label_smoothing: float = 0.0,
        tta_flip: bool = False,
    ) -> None:
        classes = len(spec.class_names)
        if not classes:
            raise UserError(
                f"a classifier needs labels, and {spec.name} has none; put the images into a "
                "folder for each class, or set data.label_column"
            )
        # Without validation of labels, which were checked when the data was decoded.
        train: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False)
        }
        evaluation = train | {
            "class_accuracy": MulticlassAccuracy(classes, average=None, validate_args=False),
            "confusion": MulticlassConfusionMatrix(classes, validate_args=False),
        }
        metrics = {"train": train, "val": evaluation, "test": evaluation}
        created = create(network, image_shape=spec.image_shape, classes=classes)
        super().__init__(created, optimizer, schedule, spec, metrics)
        self.label_smoothing = label_smoothing
        self.tta_flip = tta_flip

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, classes]`, pixels to logits."""
        logits = super().forward(x)
        if self.tta_flip and not self.training:
            logits = (logits + super().forward(x.flip(3))) / 2
        return logits

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]` and labels `[B]`."""
        return batch

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross entropy in nats of logits `[B, classes]` and labels `[B]`, a scalar.

        Raises:
            UserError: the targets are not one class for each image, or the output not its logits.
        """
        if target.ndim != 1:
            raise UserError(
                f"a classifier needs one class for each image, and the targets have the shape "
                f"{list(target.shape)}; set data.target to class, or take MultiLabel"
            )
        check_output(output, (len(target), len(self.spec.class_names)))
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(output, target, label_smoothing=smoothing)
