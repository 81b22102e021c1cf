"""Can the image be drawn again from a few numbers?"""

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models.autoencoder import Autoencoder
from twinloop.tasks.schedule import Schedule
from twinloop.tasks.task import ImageBatch, Task


class Reconstruction(Task):
    """Mean squared error per pixel, pixels in [0, 1]; counts MSE, PSNR (dB), and SSIM on test.

    With `noise` it is a denoising autoencoder (Vincent et al. 2008): the network is given the
    image with Gaussian noise, and should answer with the clean one.

    Args:
        network: Makes an autoencoder from an image's shape.
        optimizer: Makes an optimiser from parameters.
        spec: What the data looks like; filled in from the data set.
        schedule: How the learning rate moves; it stays as it is if unset.
        noise: Standard deviation of the noise, in units of a pixel's range of [0, 1]. Validation
            and test draw the same noise every time; predict adds none.
    """

    monitor = "val/mse"
    mode = "min"

    def __init__(
        self,
        network: Callable[[tuple[int, int, int]], Autoencoder],
        optimizer: OptimizerCallable,
        spec: DataSpec,
        schedule: Schedule | None = None,
        noise: float = 0.0,
    ) -> None:
        if noise < 0:
            raise UserError(f"model.noise is {noise}; a standard deviation is 0 or more")
        val = MetricCollection(
            {"mse": MeanSquaredError(), "psnr": PeakSignalNoiseRatio(data_range=1.0)},
            compute_groups=False,
        )
        test = val.clone()
        # Its window reaches 5 pixels beyond the border, where the image is reflected.
        if min(spec.image_shape[1:]) > 5:
            test.add_metrics({"ssim": StructuralSimilarityIndexMeasure(data_range=1.0)})
        super().__init__(
            network(spec.image_shape),
            optimizer,
            schedule,
            spec,
            {
                "train": MetricCollection({}, prefix="train/"),
                "val": val.clone(prefix="val/"),
                "test": test.clone(prefix="test/"),
            },
        )
        self.noise = noise

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images with noise and without, both `[B, C, H, W]`."""
        images, _ = batch
        if not self.noise:
            return images, images
        # Evaluation has a generator of its own: the same noise each time, and none of the
        # numbers that training would have drawn.
        draw = None
        if not self.training:
            draw = torch.Generator(device=images.device).manual_seed(0)
        noise = torch.randn(images.shape, generator=draw, dtype=images.dtype, device=images.device)
        return (images + self.noise * noise).clamp(0, 1), images

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error per pixel: two times `[B, C, H, W]` -> one number."""
        return F.mse_loss(output, target)
