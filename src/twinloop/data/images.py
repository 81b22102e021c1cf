"""A user's own images, of any size, in the shape that a model was trained on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twinloop.data.decode import decode_image
from twinloop.data.folder import files_below, images_of
from twinloop.errors import UserError


def read_images(
    place: Path, shape: tuple[int, int, int], background: str = "white"
) -> tuple[list[Path], Tensor]:
    """Read an image file, or every one below a folder, by name, as uint8 `[N, *shape]`.

    Files are found, turned upright and put on `background` as those that a model is trained on.

    Raises:
        UserError: no such file or folder, no image in it, or images that cannot be read.
    """
    if not place.exists():
        raise UserError(f"data.images: there is no file or folder {place}")
    paths = images_of(files_below(place)) if place.is_dir() else [place]
    if not paths:
        raise UserError(f"data.images: no images in {place}")
    arrays, wrong = [], []
    for path in paths:
        try:
            arrays.append(decode_image(str(path), shape[0], shape[1:], background))
        except UserError as error:
            wrong.append(f"{path}: {error}")
    if wrong:
        raise UserError("\n  ".join(wrong))
    return paths, torch.from_numpy(np.stack(arrays))
