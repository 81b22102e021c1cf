"""Reconstruction of images from a latent code."""

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.models.autoencoder import MakesAutoencoder
from twinloop.models.contract import check_output, create
from twinloop.tasks.schedule import AnySchedule
from twinloop.tasks.task import ImageBatch, Task


class Reconstruction(Task):
    """Mean squared error per pixel, pixels in [0, 1], with PSNR (dB), and SSIM on test.

    With `noise` it trains a denoising autoencoder (Vincent et al. 2008): the input is the image
    with Gaussian noise, the target the clean image.

    Args:
        network: A class of autoencoders, or a function, that takes `image_shape`.
        optimizer: Creates an optimiser from parameters.
        spec: Facts of the data set, filled in from it.
        schedule: Learning-rate schedule, or creates a scheduler of torch from an optimiser; the
            learning rate is constant if unset.
        noise: Standard deviation of the noise, for pixels in [0, 1]. Validation and test use the
            same noise in every pass; predict adds none.
    """

    monitor = "val/mse"
    mode = "min"
    units = {"mse": "per pixel, pixels in [0, 1]", "psnr": "dB"}  # noqa: RUF012

    def __init__(
        self,
        network: MakesAutoencoder,
        optimizer: OptimizerCallable,
        spec: DataSpec,
        schedule: AnySchedule | None = None,
        noise: float = 0.0,
    ) -> None:
        if noise < 0:
            raise UserError(f"model.noise is {noise}; a standard deviation is 0 or more")
        val: dict[str, Metric] = {
            "mse": MeanSquaredError(),
            "psnr": PeakSignalNoiseRatio(data_range=1.0),
        }
        test = dict(val)
        # SSIM pads each border by reflecting 5 pixels, which a smaller image does not have.
        if min(spec.image_shape[1:]) > 5:
            test["ssim"] = StructuralSimilarityIndexMeasure(data_range=1.0)
        metrics = {"train": {}, "val": val, "test": test}
        created = create(network, image_shape=spec.image_shape)
        super().__init__(created, optimizer, schedule, spec, metrics)
        self.noise = noise

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images with noise and without, both `[B, C, H, W]`."""
        images, _ = batch
        if not self.noise:
            return images, images
        # Evaluation has its own generator: the same noise in every pass, and no influence on the
        # random values of training.
        random = None
        if not self.training:
            random = torch.Generator(device=images.device).manual_seed(0)
        noise = torch.randn(
            images.shape, generator=random, dtype=images.dtype, device=images.device
        )
        return (images + self.noise * noise).clamp(0, 1), images

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error per pixel of two batches `[B, C, H, W]`, a scalar."""
        check_output(output, tuple(target.shape))
        return F.mse_loss(output, target)
