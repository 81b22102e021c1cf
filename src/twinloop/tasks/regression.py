"""Numbers from images."""

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models.contract import MakesClassifier, create
from twinloop.tasks.schedule import AnySchedule
from twinloop.tasks.task import ImageBatch, Task


class Regression(Task):
    """Mean squared error of one number or several, with the mean absolute error.

    Args:
        network: A class of networks, or a function, that takes `image_shape`, `classes`.
        optimizer: Creates an optimiser from parameters.
        spec: Facts of the data set, filled in from it.
        schedule: Learning-rate schedule; the learning rate is constant if unset.
        outputs: How many numbers a target has.
    """

    monitor = "val/mse"
    mode = "min"

    def __init__(
        self,
        network: MakesClassifier,
        optimizer: OptimizerCallable,
        spec: DataSpec,
        schedule: AnySchedule | None = None,
        outputs: int = 1,
    ) -> None:
        measured = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}
        metrics = {"train": {}, "val": measured, "test": measured}
        made = create(network, image_shape=spec.image_shape, classes=outputs)
        super().__init__(made, optimizer, schedule, spec, metrics)

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]` and numbers `[B, outputs]`."""
        images, numbers = batch
        return images, numbers.to(images.dtype).view(len(images), -1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of two batches `[B, outputs]`, a scalar.

        Raises:
            UserError: the targets have another number of values.
        """
        if output.shape != target.shape:
            raise UserError(
                f"the network gives {list(output.shape)} and the targets have the shape "
                f"{list(target.shape)}; set model.outputs to {target.shape[1]}"
            )
        return F.mse_loss(output, target)
