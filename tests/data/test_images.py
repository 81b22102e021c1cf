"""A user's own images come out in the shape that a model wants, in the order of their names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twinloop.data.images import read_images
from twinloop.errors import UserError


def test_images_are_found_by_suffix_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    for number, name in enumerate(("b.png", "a.PNG", "inside/c.bmp")):
        Image.new("L", (3, 2), 10 * number).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    paths, images, _ = read_images(tmp_path, (1, 2, 3))
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["a.PNG", "b.png", "inside/c.bmp"]
    assert images.dtype == torch.uint8
    assert images.shape == (3, 1, 2, 3)
    assert images[:, 0, 0, 0].tolist() == [10, 0, 20]


def test_images_get_the_channels_of_the_model(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / "colour.png")
    Image.new("L", (9, 7), 77).save(tmp_path / "grey.png")
    _, grey, _ = read_images(tmp_path, (1, 4, 4))
    # Luma of ITU-R 601: (299 * 200 + 587 * 100 + 114 * 50) / 1000 = 124.2
    assert torch.equal(grey[0], torch.full((1, 4, 4), 124))
    assert torch.equal(grey[1], torch.full((1, 4, 4), 77))
    _, colour, _ = read_images(tmp_path, (3, 5, 6))
    assert colour.shape == (2, 3, 5, 6)
    assert colour[:, :, 2, 2].tolist() == [[200, 100, 50], [77, 77, 77]]


def test_an_image_is_resized_to_height_and_width(tmp_path: Path) -> None:
    halves = np.zeros((8, 4), np.uint8)
    halves[:4] = 200
    Image.fromarray(halves).save(tmp_path / "tall.png")
    _, images, _ = read_images(tmp_path, (1, 4, 2))
    assert images.shape == (1, 1, 4, 2)
    assert images[0, 0, 0].tolist() == [200, 200]
    assert images[0, 0, 3].tolist() == [0, 0]


def test_one_file_is_read_as_a_folder_of_one(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 9).save(tmp_path / "a.png")
    paths, images, _ = read_images(tmp_path / "a.png", (1, 2, 3))
    assert paths == [tmp_path / "a.png"]
    assert images.flatten().tolist() == [9] * 6


def test_every_file_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    message = (
        r"^data\.images: 2 images cannot be read; set data\.skip_unreadable to true to go without\n"
        r"  .+a\.png: not an image that can be read\n  .+b\.png: not an image that can be read$"
    )
    with pytest.raises(UserError, match=message):
        read_images(tmp_path, (1, 2, 3))
    with pytest.raises(UserError, match=f"data.images: no images in {tmp_path}"):
        read_images(tmp_path, (1, 2, 3), skip_unreadable=True)


def test_what_is_left_out_or_read_in_part_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    frames = [Image.new("L", (3, 2), level) for level in (50, 150)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "c.dng").touch()
    paths, images, notes = read_images(tmp_path, (1, 2, 3), skip_unreadable=True)
    assert paths == [tmp_path / "b.gif"]
    assert images.flatten().tolist() == [50] * 6
    assert notes == [
        f"1 files of {tmp_path} are not read, c.dng for example; images are known by suffixes such "
        "as .png",
        f"of 1 animations the first frame is read ({tmp_path}/b.gif)",
        f"1 images that cannot be read left out: {tmp_path}/a.png: not an image that can be read",
    ]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"data.images: cannot read .+/loop: Too many levels"):
        read_images(tmp_path, (1, 2, 3))


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    message = f"data.images: there is no file or folder {tmp_path}/nothing"
    with pytest.raises(UserError, match=message):
        read_images(tmp_path / "nothing", (1, 8, 8))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=f"data.images: no images in {tmp_path}"):
        read_images(tmp_path, (1, 8, 8))
