"""Image files become the right pixels, or one line that says why not."""

import dataclasses
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from twinloop.data import decode
from twinloop.data.decode import (
    ColourError,
    Decoded,
    Encoded,
    Rows,
    decode_image,
    decode_rows,
    height_and_width,
    is_grey,
    open_image,
    to_array,
)
from twinloop.errors import UserError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def encoded(pixels: NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of an image, as bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A small BMP file that says it has `width` x `height` pixels."""
    file = bytearray(encoded(GREY, "BMP"))
    file[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(file)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_files_are_decoded_exactly(kind: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(GREY, kind), 1), GREY[None])
    np.testing.assert_array_equal(decode_image(encoded(COLOUR, kind), 3), COLOUR.transpose(2, 0, 1))


def test_grey_becomes_colour_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(encoded(GREY))
    for file in (encoded(GREY), str(tmp_path / "grey.png")):
        np.testing.assert_array_equal(decode_image(file, 3), np.stack([GREY] * 3))


def test_resizing_to_height_and_width() -> None:
    halves = np.array([[0, 0, 200, 200]] * 2, dtype=np.uint8)
    assert decode_image(encoded(halves), 1, (6, 2)).shape == (1, 6, 2)
    # Pixels 0, 1 and 2 lie 0.5, 0.5 and 1.5 from the middle of the new one, whose triangle is 2
    # wide: weights 3/7, 3/7 and 1/7.
    left, right = decode_image(encoded(halves), 1, (2, 2))[0, 0].tolist()
    assert (left, right) == (29, 171)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale(orientation: int) -> None:
    """It is nowhere off by more than 2 of 256 from the whole one that is resized."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(coarse.resize((1024, 512), Image.Resampling.BICUBIC), "JPEG", exif=exif)
    with open_image(file) as image:
        found = to_array(image, 3, (64, 32) if orientation == 6 else (32, 64))
        assert image.size == (256, 128)
    with Image.open(io.BytesIO(file)) as image:
        resized = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR)).astype(int)
    upright = np.rot90(resized, -1) if orientation == 6 else resized
    assert abs(upright - found.transpose(1, 2, 0)).max() <= 2
    with open_image(file) as image:
        to_array(image, 3, (128, 256))
        assert image.size == (1024, 512)  # only twice as large


INK = np.zeros((2, 3, 4), np.uint8)
INK[0, 1] = (10, 20, 30, 255)
INK[1, 2] = (10, 20, 30, 128)
"""One pixel of ink, one that is half transparent, and four of nothing."""


def test_transparent_images_are_put_on_the_background() -> None:
    on_white = decode_image(encoded(INK), 3)
    assert on_white[:, 0, 0].tolist() == [255, 255, 255]
    assert on_white[:, 0, 1].tolist() == [10, 20, 30]
    # (128 * 10 + 127 * 255) / 255 = 132.0
    assert on_white[:, 1, 2].tolist() == [132, 137, 142]
    on_grey = decode_image(encoded(INK), 3, background="#640000")
    assert on_grey[:, 0, 0].tolist() == [100, 0, 0]
    grey = np.zeros((1, 2, 2), np.uint8)
    grey[0, 1] = (7, 255)
    assert decode_image(encoded(grey), 1)[0].tolist() == [[255, 7]]


def test_a_palette_with_transparency_is_put_on_the_background() -> None:
    palette = Image.fromarray(GREY).convert("P")
    file = encoded(palette, transparency=bytes([0, 16, 128]))
    expected = GREY.copy()
    # The colours 0, 1 and 2 have an alpha of 0, 16 and 128: (16 * 1 + 239 * 255) / 255 = 239.1
    expected.ravel()[:3] = (255, 239, 128)
    np.testing.assert_array_equal(decode_image(file, 3), np.stack([expected] * 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_turned_upright(kind: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    file = encoded(np.rot90(upright).copy(), kind, exif=exif)
    with open_image(file) as image:
        assert height_and_width(image) == (16, 32)
    found = decode_image(file, 3)
    assert found.shape == (3, 16, 32)
    assert found[:, :6].min() > 240
    assert found[:, 10:].max() < 15


@pytest.mark.slow
def test_a_heif_file_is_turned_once() -> None:
    """Its reader turns it, and leaves EXIF that says so; installed by `make test-slow`."""
    pytest.importorskip("pillow_heif")
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(np.rot90(upright).copy(), "HEIF", exif=exif.tobytes(), quality=95)
    with open_image(file) as image:
        assert height_and_width(image) == (16, 32)
        assert image.info["original_orientation"] == 6
    found = decode_image(file, 3)
    assert found[:, :6].min() > 240
    assert found[:, 10:].max() < 15
    with_alpha = np.dstack([upright, np.where(upright[..., 0], 255, 0).astype(np.uint8)])
    found = decode_image(encoded(with_alpha, "HEIF", quality=95), 1, background="#808080")
    assert abs(found[0, 12].astype(int) - 128).max() <= 2


def test_sixteen_bits_are_scaled_over_their_range() -> None:
    wide = np.array([[0, 128, 129, 257, 32767, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode_image(encoded(wide, kind), 1)[0, 0].tolist() == [0, 0, 1, 1, 127, 255]


def tiff_of(bits: int, photometric: int, data: bytes) -> bytes:
    """A TIFF file of one row of four values, which Pillow itself can only read."""
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1}
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(data)))
    start = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return start + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def test_twelve_bits_and_white_as_0_of_tiff_files_are_scaled_over_their_range() -> None:
    twelve = "".join(f"{value:03x}" for value in (0, 1000, 4095, 2048))
    # 255 / 4095 * 1000 = 62.3
    sixteen = np.array([0, 257, 65535, 32768], "<u2").tobytes()
    for file, expected in (
        (tiff_of(12, 1, bytes.fromhex(twelve)), [0, 62, 255, 128]),
        (tiff_of(16, 1, sixteen), [0, 1, 255, 128]),
        (tiff_of(16, 0, sixteen), [255, 254, 0, 127]),
    ):
        assert decode_image(file, 1)[0, 0].tolist() == expected


@pytest.mark.parametrize("most", [65535, 1023])
def test_grey_of_over_8_bits_in_a_pgm_file_is_scaled_over_its_range(most: int) -> None:
    values = np.array([0, most // 2, most], ">u2").tobytes()
    file = f"P5 3 1 {most}\n".encode() + values
    with open_image(file) as image:
        assert is_grey(image)
    assert decode_image(file, 1)[0, 0].tolist() == [0, 127, 255]


def test_cmyk_and_the_first_frame_of_an_animation() -> None:
    cyan = encoded(Image.new("CMYK", (4, 3), (255, 0, 0, 0)), "TIFF")
    assert decode_image(cyan, 3)[:, 0, 0].tolist() == [0, 255, 255]
    frames = [Image.new("L", (4, 3), level) for level in (50, 150)]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(file, 1) == 50).all()


def test_an_animation_is_reported(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 1, 3, 4), np.uint8))
    frames = [Image.new("L", (4, 3), level) for level in (50, 150)]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    done = decode_rows(rows_of(tmp_path / "images.npy", 0, file))
    assert done == Decoded(rows=1, animated=["train row 0"])


def test_a_palette_of_greys_is_grey() -> None:
    for image, grey in ((Image.fromarray(GREY), True), (Image.fromarray(COLOUR), False)):
        with open_image(encoded(image.convert("P"))) as opened:
            assert is_grey(opened) is grey


WRONG = {
    "no image": (b"not an image", "not an image that can be read"),
    "an empty file": (b"", "an empty file"),
    "HEIF": (
        b"\0\0\0\x18ftypheic" + bytes(99),
        "HEIF is read only with the package pillow-heif; install it, or convert to JPEG",
    ),
    "no file": ("/nowhere/image.png", r"cannot be read \(No such file or directory\)"),
    "cut off": (encoded(COLOUR)[:-30], r"cannot be decoded \(.+\)"),
    "cut off JPEG": (
        encoded(np.tile(COLOUR, (9, 9, 1)), "JPEG")[:-40],
        r"cannot be decoded \(.+\)",
    ),
    "over the limit": (
        header_of(8_000, 7_000),
        "8000x7000 is over the limit of 50,000,000 pixels; make it smaller",
    ),
    "where Pillow refuses": (header_of(20_000, 20_000), "over the limit of 50,000,000 pixels"),
    "32 bits": (encoded(GREY.astype(np.int32), "TIFF"), "pixels of mode I do not fit 8 bits"),
}


@pytest.mark.parametrize(("file", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_unreadable_image_is_reported_in_one_line(
    file: bytes | str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "HEIF", False)  # also where its reader is installed
    with pytest.raises(UserError, match=message) as caught:
        decode_image(file, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("convert", [False, True])
def test_colour_among_grey_is_converted_only_where_asked(convert: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 1, 3, 4), np.uint8))
    red = encoded(np.full((3, 4, 3), (200, 100, 50), np.uint8))
    rows = rows_of(tmp_path / "images.npy", 0, red, convert=convert)
    if not convert:
        with pytest.raises(ColourError, match="train row 0"):
            decode_rows(rows)
    else:
        assert decode_rows(rows) == Decoded(rows=1)
        # (299 * 200 + 587 * 100 + 114 * 50) / 1000 = 124.2
        assert (np.load(rows.path) == 124).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_any_damage_ends_in_pixels_or_in_a_user_error(kind: str) -> None:
    whole = encoded(COLOUR, kind)
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = draw.integers(0, min(len(whole), 120), size=3)
        damaged[places] = draw.integers(0, 256, size=3)
        try:
            assert decode_image(damaged.tobytes(), 3).dtype == np.uint8
        except UserError:
            refused += 1
    assert refused > 5


def rows_of(path: Path, first: int, *images: Encoded | None, **changes: Any) -> Rows:
    """A task of decoding `images` into the array file at `path`."""
    numbers = range(len(images))
    rows = Rows(path, first, list(images), "train", numbers, False, "white", False)
    return dataclasses.replace(rows, **changes)


def test_a_palette_that_is_cut_off_among_greys_is_unreadable(tmp_path: Path) -> None:
    """Its colours are known only once it is decoded."""
    np.save(tmp_path / "images.npy", np.zeros((1, 1, 3, 4), np.uint8))
    file = encoded(Image.fromarray(GREY).convert("P"))[:-30]
    done = decode_rows(rows_of(tmp_path / "images.npy", 0, file))
    ((split, row, reason),) = done.unreadable
    assert (split, row) == ("train", 0)
    assert reason.startswith("train row 0: cannot be decoded (")


def test_rows_are_written_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.full((4, 1, 3, 4), 9, np.uint8))
    done = decode_rows(rows_of(path, 1, encoded(GREY), encoded(GREY + 100)))
    assert done == Decoded(rows=2)
    expected = np.full((4, 1, 3, 4), 9)
    expected[1, 0], expected[2, 0] = GREY, GREY + 100
    np.testing.assert_array_equal(np.load(path), expected)


WRONG_ROWS = {
    "no image": (None, "val row 2: has no image"),
    "no file": (
        "/nowhere/image.png",
        "val row 2: /nowhere/image.png: cannot be read (No such file or directory)",
    ),
}


@pytest.mark.parametrize(("image", "message"), WRONG_ROWS.values(), ids=WRONG_ROWS.keys())
def test_a_wrong_row_is_named(image: bytes | str | None, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((9, 1, 3, 4), np.uint8))
    rows = rows_of(tmp_path / "images.npy", 7, encoded(GREY), image, split="val", numbers=[1, 2])
    assert decode_rows(rows) == Decoded(rows=2, unreadable=[("val", 2, message)])


def test_another_size_is_refused_where_none_was_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((9, 1, 3, 4), np.uint8))
    message = "train row 0: 4x3 pixels where the first image has 3x4; set data.image_size"
    with pytest.raises(UserError, match=message):
        decode_rows(rows_of(tmp_path / "images.npy", 7, encoded(GREY.T.copy())))


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(header_of(8000, 7000))
    with pytest.raises(UserError, match="over the limit") as refused:
        open_image(str(path))
    assert refused.traceback  # it holds the image
    assert path not in [file.resolve() for file in Path("/proc/self/fd").iterdir()]
