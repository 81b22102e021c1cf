"""Images of the user, resized to the shape that a model was trained on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twinloop.data.decode import open_image, to_array
from twinloop.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_images(folder: Path, shape: tuple[int, int, int]) -> tuple[list[Path], Tensor]:
    """Read every image in `folder` and its subfolders, sorted by path, as uint8 `[N, *shape]`.

    Raises:
        UserError: no such folder, no images in it, or an image that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"data.images: there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"data.images: no images in {folder} ({', '.join(SUFFIXES)})")
    arrays = []
    for path in paths:
        try:
            with open_image(str(path)) as image:
                arrays.append(to_array(image, shape[0], shape[1:]))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return paths, torch.from_numpy(np.stack(arrays))
