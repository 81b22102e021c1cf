"""A user's own images, of any size, in the shape that a model was trained on."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinloop.data.decode import Decoded, is_animated, open_image, to_array
from twinloop.data.decode_splits import unreadable
from twinloop.data.folder import files_below, images_of, left_out
from twinloop.errors import UserError


def read_images(
    place: Path,
    shape: tuple[int, int, int],
    background: str = "white",
    skip_unreadable: bool = False,
) -> tuple[list[Path], Tensor, list[str]]:
    """Read an image file, or every one below a folder, by name, as uint8 `[N, *shape]`.

    Files are found, turned upright and put on `background` as those that a model is trained on.

    Returns:
        The file of each image, the images, and what a user should know of them.

    Raises:
        UserError: no such file or folder, no image in it, or images that cannot be read.
    """
    paths, notes = _paths_at(place)
    found: dict[Path, NDArray[np.uint8]] = {}
    done = Decoded()
    for path in paths:
        try:
            with open_image(str(path)) as image:
                found[path] = to_array(image, shape[0], shape[1:], background)
                if is_animated(image):
                    done.animated.append(str(path))
        except UserError as error:
            done.unreadable.append(("images", len(done.unreadable), f"{path}: {error}"))
    if done.unreadable and not skip_unreadable:
        raise unreadable("data.images", done.reasons)
    if not found:
        raise UserError(f"data.images: no images in {place}")
    return list(found), torch.from_numpy(np.stack(list(found.values()))), notes + done.notes


def _paths_at(place: Path) -> tuple[list[Path], list[str]]:
    """The image files at `place`, and lines on others there."""
    if not place.exists():
        raise UserError(f"data.images: there is no file or folder {place}")
    if not place.is_dir():
        return [place], []
    try:
        files = list(files_below(place))
    except OSError as error:
        raise UserError(f"data.images: cannot read {error.filename}: {error.strerror}") from error
    paths = images_of(files)
    return paths, left_out(place, files, set(map(str, paths)))
