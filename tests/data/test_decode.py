"""Image files become the right pixels, or one line that says why not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from twinloop.data.decode import decode_image, decode_rows, open_image
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


def test_grey_becomes_colour_but_not_the_other_way(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(encoded(GREY))
    palette = encoded(Image.fromarray(GREY).convert("P"), transparency=bytes([0, 16, 128]))
    for file in (encoded(GREY), str(tmp_path / "grey.png"), palette):
        np.testing.assert_array_equal(decode_image(file, 3), np.stack([GREY] * 3))
    with pytest.raises(UserError, match=r"is in colour \(RGB\) where the first image is grey"):
        decode_image(encoded(COLOUR), 1)


def test_resizing_to_height_and_width() -> None:
    halves = np.array([[0, 0, 200, 200]] * 2, dtype=np.uint8)
    assert decode_image(encoded(halves), 1, (6, 2)).shape == (1, 6, 2)
    # Pixels 0, 1 and 2 lie 0.5, 0.5 and 1.5 from the middle of the new one, whose triangle is 2
    # wide: weights 3/7, 3/7 and 1/7.
    left, right = decode_image(encoded(halves), 1, (2, 2))[0, 0].tolist()
    assert (left, right) == (29, 171)


WRONG = {
    "no image": (b"not an image", "not an image that can be read"),
    "no file": ("/nowhere/image.png", "not an image that can be read"),
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
    "16 bits": (encoded(GREY.astype(np.uint16)), "pixels of mode I;16 do not fit 8 bits"),
}


@pytest.mark.parametrize(("file", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_unreadable_image_is_reported_in_one_line(file: bytes | str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        decode_image(file, 3)
    assert "\n" not in str(caught.value)


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


def test_rows_are_written_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.full((4, 1, 3, 4), 9, np.uint8))
    assert decode_rows(path, 1, [encoded(GREY), encoded(GREY + 100)], resize=False) == 2
    expected = np.full((4, 1, 3, 4), 9)
    expected[1, 0], expected[2, 0] = GREY, GREY + 100
    np.testing.assert_array_equal(np.load(path), expected)


WRONG_ROWS = {
    "no image": (None, "row 8: has no image"),
    "other size": (
        encoded(GREY.T.copy()),
        "row 8: 4x3 pixels where the first image has 3x4; pass --data.image_size",
    ),
}


@pytest.mark.parametrize(("image", "message"), WRONG_ROWS.values(), ids=WRONG_ROWS.keys())
def test_a_wrong_row_is_named(image: bytes | str | None, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((9, 1, 3, 4), np.uint8))
    with pytest.raises(UserError, match=message):
        decode_rows(tmp_path / "images.npy", 7, [encoded(GREY), image], resize=False)


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(header_of(8000, 7000))
    with pytest.raises(UserError, match="over the limit") as refused:
        open_image(str(path))
    assert refused.traceback  # it holds the image
    assert path not in [file.resolve() for file in Path("/proc/self/fd").iterdir()]
