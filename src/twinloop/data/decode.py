"""Image files to uint8 arrays. Imports no torch, so that decoding processes start quickly."""

import io
import os
import threading
import warnings
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from twinloop.errors import UserError

MAX_PIXELS = 50_000_000
"""Larger images, of over 150 MB when decoded, are refused."""
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")

ImageFile.LOAD_TRUNCATED_IMAGES = False  # a truncated file is an error, not a partly grey image

Encoded = bytes | str
"""An image file: its bytes, or its path."""


def open_image(encoded: Encoded) -> Image.Image:
    """Read the header of an image.

    Raises:
        UserError: not an image, too many pixels, or pixels that do not fit 8 bits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd or large files; unusable ones are refused below
        try:
            image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
        except Image.DecompressionBombError as error:
            raise UserError(f"over the limit of {MAX_PIXELS:,} pixels; make it smaller") from error
        except Exception as error:  # Pillow's plugins raise errors of any type on damaged headers
            raise UserError("not an image that can be read") from error
    width, height = image.size
    wrong = None
    if width * height > MAX_PIXELS:
        wrong = f"{width}x{height} is over the limit of {MAX_PIXELS:,} pixels; make it smaller"
    elif image.mode not in GREY_MODES + COLOUR_MODES:
        wrong = f"pixels of mode {image.mode} do not fit 8 bits; convert it to grey or RGB"
    if wrong:
        image.close()
        raise UserError(wrong)
    return image


def decode_image(
    encoded: Encoded, channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode an image to `[channels, height, width]`, resized to `size` (height, width) if given.

    Raises:
        UserError: see `open_image`; also a truncated image, or colour where `channels` is 1.
    """
    with open_image(encoded) as image:
        if channels == 1 and image.mode in COLOUR_MODES:
            raise UserError(f"is in colour ({image.mode}) where the first image is grey")
        return to_array(image, channels, size)


def to_array(
    image: Image.Image, channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Convert an image to `[channels, height, width]`, colour to grey where `channels` is 1.

    Raises:
        UserError: its pixels cannot be decoded.
    """
    mode = "L" if channels == 1 else "RGB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if image.mode != mode:
                image = image.convert(mode)
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
        except Exception as error:  # of any type, as in open_image
            raise UserError(f"cannot be decoded ({error})") from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_rows(path: Path, first_row: int, images: Sequence[Encoded | None], resize: bool) -> int:
    """Decode `images` into the uint8 array file `<split>-images.npy`, from row `first_row` on.

    Returns the number of rows written.

    Raises:
        UserError: names the split and the row of an image that cannot be used.
    """
    split = path.name.removesuffix("-images.npy")
    array = np.load(path, mmap_mode="r+")
    _, channels, height, width = array.shape
    for row, encoded in enumerate(images, start=first_row):
        try:
            if encoded is None:
                raise UserError("has no image")
            pixels = decode_image(encoded, channels, (height, width) if resize else None)
        except UserError as error:
            raise image_error(split, row, encoded, error) from error
        if pixels.shape[1:] != (height, width):
            raise UserError(
                f"{split} row {row}: {pixels.shape[1]}x{pixels.shape[2]} pixels where the first "
                f"image has {height}x{width}; pass --data.image_size to resize all to one size"
            )
        array[row] = pixels
    array.flush()
    return len(images)


def image_error(split: str, row: int, encoded: Encoded | None, error: UserError) -> UserError:
    """Prefix an error of an image with its split, row and path."""
    path = f"{encoded}: " if isinstance(encoded, str) else ""
    return UserError(f"{split} row {row}: {path}{error}")


def end_with_parent() -> None:
    """End this process when its parent ends, for example because it was killed."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
