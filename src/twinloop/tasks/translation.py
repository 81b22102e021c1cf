"""Images from images."""

from torch import Tensor

from twinloop.errors import UserError
from twinloop.tasks.reconstruction import Reconstruction
from twinloop.tasks.task import ImageBatch


class ImageToImage(Reconstruction):
    """As `Reconstruction`, of another image: the target that the data has for each."""

    def inputs_and_targets(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images, with noise if there is any, and the images to make of them."""
        images, targets = batch
        return super().inputs_and_targets((images, targets))[0], targets

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error per pixel of two batches `[B, C, H, W]`, a scalar.

        Raises:
            UserError: the targets are no images of the size that the network gives.
        """
        if output.shape != target.shape:
            raise UserError(
                f"the network gives images {list(output.shape)}, and the targets have the shape "
                f"{list(target.shape)}; set data.target to image, or image_size and channels"
            )
        return super().loss(output, target)
