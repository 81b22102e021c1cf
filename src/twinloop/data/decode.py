"""Image files to uint8 arrays. Needs no torch, so that decoding processes start quickly."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from twinloop.errors import UserError

HEIF = find_spec("pillow_heif") is not None
"""Whether the package that reads HEIF is installed."""
if HEIF:
    from pillow_heif import register_heif_opener

    register_heif_opener()

MAX_PIXELS = 50_000_000
"""An image with more is refused before it is decoded; it would take over 150 MB."""

GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I")
COLOUR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr")
PALETTE_MODES = ("P", "PA")

EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""What a file may say its orientation in; Pillow turns TIFF files by itself."""

# A truncated file is an error here, never an image that is grey from some row on.
ImageFile.LOAD_TRUNCATED_IMAGES = False

Encoded = bytes | str
"""An image as the bytes of its file, or as the path of it."""

DRAFT = 4
"""A JPEG is decoded at a half, a quarter or an eighth if that is so many times what is wanted."""

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def open_image(encoded: Encoded | None) -> Image.Image:
    """Read an image's header.

    Raises:
        UserError: no image, too many pixels, or a kind of pixel that does not fit 8 bits.
    """
    if encoded is None:
        raise UserError("has no image")
    with warnings.catch_warnings():
        # Pillow warns of odd files and of large ones; what cannot be used is refused below.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
        except Image.DecompressionBombError as error:
            raise UserError(f"over the limit of {MAX_PIXELS:,} pixels; make it smaller") from error
        except Exception as error:  # of any type: Pillow's plugins trip over damaged headers
            raise UserError(_why_not(encoded)) from error
    width, height = image.size
    wrong = None
    if width * height > MAX_PIXELS:
        wrong = f"{width}x{height} is over the limit of {MAX_PIXELS:,} pixels; make it smaller"
    elif image.mode not in GREY_MODES + COLOUR_MODES + PALETTE_MODES or (
        image.mode == "I" and image.format != "PPM"  # which is scaled to 16 bits
    ):
        wrong = f"pixels of mode {image.mode} do not fit 8 bits; convert it to grey or RGB"
    if wrong:
        image.close()
        raise UserError(wrong)
    return image


def _why_not(encoded: Encoded) -> str:
    """Why Pillow cannot open a file."""
    try:
        start = encoded[:12] if isinstance(encoded, bytes) else _first_bytes(encoded)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not HEIF and start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS:
        return "HEIF is read only with the package pillow-heif; install it, or convert to JPEG"
    return "not an image that can be read" if start else "an empty file"


def _first_bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(12)


@contextmanager
def _decoding() -> Iterator[None]:
    """Make whatever Pillow raises on a damaged file a UserError; warnings as in `open_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # of any type, as in open_image
            raise UserError(f"cannot be decoded ({error})") from error


@_decoding()
def is_grey(image: Image.Image) -> bool:
    """Whether an image can have no colour: by its mode, or by the colours of its palette."""
    if image.mode not in PALETTE_MODES:
        return image.mode in GREY_MODES
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


@_decoding()
def is_animated(image: Image.Image) -> bool:
    """Whether an image has more than one frame."""
    return bool(getattr(image, "is_animated", False))


@_decoding()
def height_and_width(image: Image.Image) -> tuple[int, int]:
    """The size of an image that has only been opened, once it is turned upright."""
    width, height = image.size[::-1] if _lies_on_its_side(image) else image.size
    return height, width


def _lies_on_its_side(image: Image.Image) -> bool:
    return image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5


def decode_image(
    encoded: Encoded,
    channels: int,
    size: tuple[int, int] | None = None,
    background: str = "white",
) -> NDArray[np.uint8]:
    """Decode one image: see `to_array`.

    Raises:
        UserError: see `open_image`; also an image that is cut off.
    """
    with open_image(encoded) as image:
        return to_array(image, channels, size, background)


@_decoding()
def to_array(
    image: Image.Image,
    channels: int,
    size: tuple[int, int] | None = None,
    background: str = "white",
) -> NDArray[np.uint8]:
    """Decode an open image to `[channels, height, width]`, resized to `size` where it is given.

    The first frame of an animation is taken, turned upright by its EXIF orientation, and put on
    `background` where it is transparent. 16 or 12 bits are scaled to 8 over their range. Colour
    becomes grey where `channels` is 1 (luma of ITU-R BT.601), and grey is repeated where it is 3.
    A JPEG that is at least eight times as large as `size` is decoded at a reduced scale, which
    takes half the time.

    Raises:
        UserError: it cannot be decoded.
    """
    mode, opened = "L" if channels == 1 else "RGB", image
    if size is not None:
        width, height = size if _lies_on_its_side(image) else size[::-1]
        image.draft(None, (DRAFT * width, DRAFT * height))  # does nothing but to a JPEG
    image.load()
    if EXIF & image.info.keys():
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _to_8_bits(image, opened)
    elif image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_8_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """Scale 16 bits to 8, or the 12 of a TIFF file, whose 0 may be white; Pillow does neither."""
    wide, most = np.asarray(image).astype(np.uint32), 65535
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        most = 2 ** file.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
        if file.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 0:
            wide = most - wide
    return Image.fromarray(((wide * 255 + most // 2) // most).astype(np.uint8))


Task = tuple[str, int]
"""The name of an array, and the first of the rows that are decoded together."""


@dataclass(frozen=True)
class Rows:
    """Images of one split that are decoded together, into rows of its array file."""

    path: Path
    """The array file, uint8 `[N, channels, height, width]`."""
    first: int
    images: list[Encoded | None]
    split: str
    numbers: Sequence[int]
    """The row in the split of each image; in the array they stand from `first` on."""
    resize: bool
    background: str
    convert: bool
    """Whether colour becomes grey where the array has one channel."""

    @property
    def task(self) -> Task:
        """What tells these rows from others of the same decoding."""
        return self.path.stem.removesuffix("-images"), self.first


@dataclass
class Decoded:
    """What became of `rows` rows: the names of animations, and why images cannot be read."""

    rows: int = 0
    animated: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, int, str]] = field(default_factory=list)
    """Split, row and reason of each."""

    @property
    def reasons(self) -> list[str]:
        """Why images cannot be read, in the order of their rows."""
        return [reason for _, _, reason in sorted(self.unreadable)]

    @property
    def notes(self) -> list[str]:
        """Lines on animations, and on images that are left out."""
        notes = []
        if self.animated:
            count, first = len(self.animated), min(self.animated)
            notes.append(f"of {count:,} animations the first frame is read ({first})")
        if self.unreadable:
            count, reasons = len(self.unreadable), "; ".join(self.reasons)
            notes.append(f"{count:,} images that cannot be read left out: {reasons}")
        return notes

    def add(self, other: "Decoded") -> None:
        """Count `other` rows too."""
        self.rows += other.rows
        self.animated += other.animated
        self.unreadable += other.unreadable


def name_of(split: str, row: int, encoded: Encoded | None) -> str:
    """An image in messages: its split and row, and its file if it has one."""
    return f"{split} row {row}" + (f": {encoded}" if isinstance(encoded, str) else "")


class ColourError(Exception):
    """An image in colour, where all before it were grey."""


def decode_rows(rows: Rows) -> Decoded:
    """Decode images into their rows.

    Raises:
        ColourError: an image is in colour, and the array has one channel.
        UserError: an image of another size than the array, where none is to be resized.
    """
    array = np.load(rows.path, mmap_mode="r+")
    _, channels, *size = array.shape
    done = Decoded(len(rows.images))
    for place, (row, encoded) in enumerate(zip(rows.numbers, rows.images, strict=True), rows.first):
        name = name_of(rows.split, row, encoded)
        try:
            with open_image(encoded) as image:
                if channels == 1 and not rows.convert and not is_grey(image):
                    raise ColourError(name)
                if is_animated(image):
                    done.animated.append(name)
                pixels = to_array(
                    image, channels, (size[0], size[1]) if rows.resize else None, rows.background
                )
        except UserError as error:
            done.unreadable.append((rows.split, row, f"{name}: {error}"))
            continue
        if pixels.shape[1:] != array.shape[2:]:
            height, width = pixels.shape[1:]
            raise UserError(
                f"{rows.split} row {row}: {height}x{width} pixels where the first image has "
                f"{size[0]}x{size[1]}; set data.image_size to resize all to one size"
            )
        array[place] = pixels
    array.flush()
    return done
