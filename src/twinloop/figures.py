"""Figures of a run: curves, reconstructions, confusion matrices and predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from twinloop.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 36
"""Side of a cell in pixels, in the image of a confusion matrix."""
DARK_BLUE = (8, 48, 107)


def curves(history: Sequence[dict[str, float]], title: str) -> "Figure":
    """Every metric over the epochs, with train and val on the same axes."""
    names = sorted({key.partition("/")[2] for row in history for key in row if "/" in key})
    figure, axes = _subplots(1, len(names), 3.6, 2.8)
    for axis, name in zip(axes.flat, names, strict=True):
        for stage in ("train", "val"):
            points = [(r["epoch"], r[f"{stage}/{name}"]) for r in history if f"{stage}/{name}" in r]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=stage)
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return figure


def reconstructions(rows: dict[str, Tensor], title: str) -> "Figure":
    """Rows of images `[N, C, H, W]`, each under its name."""
    count = len(next(iter(rows.values())))
    figure, axes = _subplots(len(rows), count, 0.8, 0.9)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            _show(axis, image)
        line[0].set_title(name, loc="left", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def confusion(matrix: Tensor, class_names: Sequence[str], title: str) -> "Figure":
    """The confusion matrix `[classes, classes]`: rows are true classes, columns predicted ones."""
    figure, axes = _subplots(1, 1, 6.4, 6.0)
    axis = axes[0, 0]
    counts, shares = _counts_and_shares(matrix)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, int(count), ha="center", va="center", color=colour, size=7)
    ticks = range(len(class_names))
    axis.set_xticks(ticks, class_names, rotation=45, ha="right")
    axis.set_yticks(ticks, class_names)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def confusion_image(matrix: Tensor, class_names: Sequence[str], title: str) -> NDArray[np.uint8]:
    """The same as pixels `[H, W, 3]`, without matplotlib, which is too slow for every epoch."""
    counts, shares = _counts_and_shares(matrix)
    colours = 255 + shares[:, :, None] * (np.array(DARK_BLUE) - 255)
    small = len(class_names) <= 20
    side = CELL if small else 4
    cells: NDArray[np.uint8] = colours.round().astype(np.uint8).repeat(side, 0).repeat(side, 1)
    if not small:
        return cells
    font = ImageFont.load_default(11)
    left = 10 + max(int(font.getlength(name)) for name in class_names)
    image = Image.new("RGB", (left + cells.shape[1], CELL + cells.shape[0]), "white")
    image.paste(Image.fromarray(cells), (left, CELL))
    draw = ImageDraw.Draw(image)
    draw.text((5, CELL / 2), title, "black", font, anchor="lm")
    for row, name in enumerate(class_names):
        middle = CELL * (row + 1.5)
        draw.text((left - 5, middle), name, "black", font, anchor="rm")
        for column in np.flatnonzero(counts[row]):
            colour = "white" if shares[row, column] > 0.5 else "black"
            centre = (left + CELL * (column + 0.5), middle)
            draw.text(centre, str(counts[row, column]), colour, font, anchor="mm")
    return np.asarray(image)


def predictions(images: Tensor, captions: Sequence[str], title: str) -> "Figure":
    """Images `[N, C, H, W]`, each under its caption, eight in a row."""
    columns = min(8, len(images))
    figure, axes = _subplots(-(-len(images) // columns), columns, 1.5, 1.7)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        _show(axis, image)
        axis.set_title(caption, fontsize=7)
    figure.suptitle(title)
    return figure


def save(figure: "Figure", path: Path | str) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(Path(path)) as part:
        figure.savefig(part, dpi=150, format="png")


def subplots(
    rows: int, columns: int, size: tuple[float, float], widths: Sequence[float] | None = None
) -> tuple["Figure", Any]:
    """A figure of `size` inches with axes `[rows, columns]`, whose columns share it by `widths`."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is not mathematics
    # Not by pyplot, which would keep a reference to every figure.
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=widths)


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple["Figure", Any]:
    """Axes of `width` x `height` inches each, below a title."""
    return subplots(rows, columns, (max(columns * width, 3.0), rows * height + 0.5))


def _counts_and_shares(matrix: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A confusion matrix, and its rows as shares of the images of a true class."""
    counts = matrix.cpu().numpy()
    return counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _show(axis: Any, image: Tensor) -> None:
    pixels = image.detach().float().cpu().clamp(0, 1)
    axis.imshow(pixels.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.axis("off")
