"""Figures show the numbers they are given, under their names."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from twinloop import figures

HISTORY = [
    {"epoch": 1, "seconds": 2.0, "train/loss": 0.9, "val/loss": 0.8, "val/accuracy": 0.5},
    {"epoch": 2, "seconds": 2.0, "train/loss": 0.7, "val/loss": 0.6, "val/accuracy": 0.75},
]


def test_curves_have_an_axis_for_each_metric_and_a_line_for_each_stage() -> None:
    figure = figures.curves(HISTORY, "mlp on digits")
    assert figure.get_suptitle() == "mlp on digits"
    lines = {
        (axis.get_title(), str(line.get_label())): np.asarray(line.get_xydata()).tolist()
        for axis in figure.axes
        for line in axis.lines
    }
    assert lines == {
        ("accuracy", "val"): [[1, 0.5], [2, 0.75]],
        ("loss", "train"): [[1, 0.9], [2, 0.7]],
        ("loss", "val"): [[1, 0.8], [2, 0.6]],
    }


def test_an_epoch_without_validation_leaves_a_gap() -> None:
    history = [{"epoch": 1, "train/loss": 0.9}, HISTORY[1]]
    figure = figures.curves(history, "")
    (loss,) = (axis for axis in figure.axes if axis.get_title() == "loss")
    points = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in loss.lines}
    assert points == {"train": [[1, 0.9], [2, 0.7]], "val": [[2, 0.6]]}


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_stand_below_the_originals(channels: int) -> None:
    rows = {"original": torch.rand(3, channels, 4, 5), "drawn": torch.rand(3, channels, 4, 5)}
    figure = figures.reconstructions(rows, "digits")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["original", "", "", "drawn", "", ""]
    expected = torch.cat(list(rows.values())).permute(0, 2, 3, 1).squeeze(3).numpy()
    for axis, image in zip(figure.axes, expected, strict=True):
        (shown,) = axis.images
        np.testing.assert_array_equal(np.asarray(shown.get_array()), image)
        assert shown.get_clim() == (0, 1)


def test_the_confusion_image_has_shares_as_colours_and_counts_as_text() -> None:
    matrix = torch.tensor([[3, 1], [0, 0]])
    pixels = figures.confusion_image(matrix, ["cat", "a long name"], "val")
    side = figures.CELL
    assert pixels.shape[0] == 3 * side
    cells = pixels[side:, -2 * side :].reshape(2, side, 2, side, 3).transpose(0, 2, 1, 3, 4)
    blue = np.array(figures.DARK_BLUE)
    for row, column, share in ((0, 0, 0.75), (0, 1, 0.25), (1, 0, 0), (1, 1, 0)):
        cell = cells[row, column]
        np.testing.assert_allclose(cell[0, 0], 255 + share * (blue - 255), atol=0.5)
        has_text = (cell != cell[0, 0]).any()
        assert has_text == (matrix[row, column] > 0)
    other = figures.confusion_image(matrix + torch.eye(2).long(), ["cat", "a long name"], "val")
    assert (other != pixels).any()
    names = pixels[side:, : -2 * side].reshape(2, side, -1)
    assert (names[1] < 128).sum() > (names[0] < 128).sum() > 0


def test_the_confusion_of_many_classes_has_no_text() -> None:
    many = torch.eye(21).long(), ["name"] * 21, "val"
    pixels = figures.confusion_image(*many)
    assert pixels.shape == (84, 84, 3)
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {(255, 255, 255), figures.DARK_BLUE}
    (axis,) = figures.confusion(*many).axes
    assert len(axis.texts) == 0


def test_confusion_shows_shares_and_writes_counts() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    (axis,) = figures.confusion(matrix, ["cat", "dog", "eel"], "val").axes
    assert (axis.get_title(), axis.get_ylabel(), axis.get_xlabel()) == ("val", "true", "predicted")
    shares = np.asarray(axis.images[0].get_array())
    np.testing.assert_array_equal(shares, [[0.75, 0.25, 0], [0, 0, 0], [0, 0.5, 0.5]])
    counts = {(text.get_position(), text.get_text()) for text in axis.texts}
    assert counts == {((0, 0), "3"), ((1, 0), "1"), ((1, 2), "2"), ((2, 2), "2")}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "eel"]


@pytest.mark.parametrize(("count", "axes"), [(1, 1), (8, 8), (9, 16)])
def test_predictions_are_eight_in_a_row_under_their_captions(count: int, axes: int) -> None:
    captions = [f"class {number}" for number in range(count)]
    figure = figures.predictions(torch.rand(count, 1, 4, 4), captions, "")
    assert len(figure.axes) == axes
    assert [axis.get_title() for axis in figure.axes if axis.images] == captions


def test_a_figure_is_saved_as_png_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "curves.png"
    figures.save(figures.curves(HISTORY, ""), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_a_figure_is_saved_where_a_string_says(tmp_path: Path) -> None:
    figures.save(figures.curves(HISTORY, ""), f"{tmp_path}/curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        (torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8), [[0, 0.2], [1, 0.4]]),
        (torch.tensor([[[0.5, 0.25]]]), [[0.5, 0.25]]),
        (np.array([[-1.0, 0.0, 3.0]]), [[0, 0.25, 1]]),
        (torch.tensor([[2.0, 2.0]]), [[0, 0]]),
        (torch.tensor([[[0.0]], [[0.5]], [[1.0]]]), [[[0, 0.5, 1]]]),
    ],
)
def test_an_image_is_shown_over_its_range(image: Any, pixels: Any) -> None:
    (axis,) = figures.show_image(image, "$5").axes
    np.testing.assert_allclose(np.asarray(axis.images[0].get_array()), pixels, atol=1e-7)
    assert axis.images[0].get_clim() == (0, 1)
    assert axis.get_title() == "$5"


@pytest.mark.parametrize("titles", [[], ["a", "b", "c", "d", "e"], ["a", "b"]])
def test_images_are_side_by_side_each_under_its_title(titles: list[str]) -> None:
    figure = figures.show_images(torch.rand(3, 4, 5), titles, columns=2)
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes] == [*(titles + [""] * 3)[:3], ""]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 0]


def drawn(title: str) -> NDArray[np.uint8]:
    figure = figures.confusion(torch.eye(2).long(), [title, title], title)
    with Image.open(BytesIO(figures.as_png(figure))) as image:
        return np.asarray(image)


def test_a_dollar_is_no_mathematics_and_matplotlib_keeps_its_settings() -> None:
    before = dict(matplotlib.rcParams)
    plain = drawn("a$b$")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"text.parse_math": False}):
        np.testing.assert_array_equal(plain, drawn("a$b$"))
        assert (plain != drawn("ab")).any()


@pytest.mark.slow
def test_a_notebook_shows_a_figure() -> None:
    figure: Any = figures.curves(HISTORY, "")
    assert figure._repr_png_() == figures.as_png(figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
