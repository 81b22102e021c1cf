"""Figures of a run: curves, reconstructions, confusion matrices and predictions."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
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


def seeds(histories: Sequence[Sequence[dict[str, float]]], title: str) -> "Figure":
    """Every metric of val over the epochs: each seed, and the mean in the band of the deviation."""
    names = [key for key in histories[0][-1] if key.startswith("val/")]
    figure, axes = _subplots(1, len(names), 3.6, 2.8)
    for axis, name in zip(axes.flat, names, strict=True):
        by_epoch: dict[float, list[float]] = {}
        for history in histories:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            axis.plot(*zip(*points, strict=True), color="tab:blue", linewidth=0.6, alpha=0.5)
            for epoch, value in points:
                by_epoch.setdefault(epoch, []).append(value)
        # A seed may have stopped early.
        full = {epoch: v for epoch, v in by_epoch.items() if len(v) == len(histories)}
        mean, std = (np.array([f(v) for v in full.values()]) for f in (np.mean, _std))
        axis.plot(list(full), mean, color="tab:blue", label="mean")
        axis.fill_between(list(full), mean - std, mean + std, alpha=0.25, label="± std")
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return figure


def losses(train: Sequence[float], validated: Mapping[int, float]) -> "Figure":
    """The loss of each batch of train, and of each validation by the batches before it."""
    figure, axes = _subplots(1, 1, 5.0, 3.0)
    axis = axes[0, 0]
    axis.plot(range(1, len(train) + 1), train, linewidth=1, label="train")
    if validated:
        axis.plot(list(validated), list(validated.values()), marker="o", markersize=3, label="val")
    axis.set(xlabel="batch", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def batches(values: Mapping[str, Sequence[float]]) -> "Figure":
    """Each value over the batches, on axes of its own."""
    figure, axes = _subplots(1, len(values), 3.6, 2.8)
    for axis, (name, numbers) in zip(axes.flat, values.items(), strict=True):
        axis.plot(numbers, linewidth=1)
        axis.set(title=name, xlabel="batch")
        axis.grid(alpha=0.3)
    return figure


def rates(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
) -> "Figure":
    """The losses of a search over its learning rates, and what it suggests if anything."""
    figure, axes = _subplots(1, 1, 5.0, 3.0)
    axis = axes[0, 0]
    axis.plot(lrs, losses, linewidth=1, alpha=0.4, label="loss")
    axis.plot(lrs, smoothed, label="smoothed")
    if suggestion is not None:
        axis.axvline(suggestion, color="black", linestyle=":", label=f"suggestion {suggestion:.2g}")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")  # what stands there by default is mathematics
    axis.xaxis.set_minor_formatter("")
    axis.set(xlabel="learning rate", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def activations(stats: Mapping[str, Tensor], histograms: Mapping[str, Tensor]) -> "Figure":
    """Mean, deviation and share near 0 by module over the batches, then each one's histograms.

    Args:
        stats: Mean and standard deviation, `[batches, 2]`.
        histograms: Counts of absolute values, `[batches, bins]`, of which the first is that near 0.
            Drawn as logarithms, from 0 below to the last bin with a count.
    """
    columns = 3
    figure, axes = _subplots(1 + -(-len(histograms) // columns), columns, 3.6, 2.4)
    for axis in axes.flat[columns + len(histograms) :]:
        axis.axis("off")
    for name, counts in histograms.items():
        share = counts[:, 0] / counts.sum(1).clamp(min=1)
        for axis, line in zip(axes[0], (*stats[name].T, share), strict=True):
            axis.plot(line.numpy(), linewidth=1, label=name)
    for axis, title in zip(axes[0], ("mean", "standard deviation", "share near 0"), strict=True):
        axis.set(title=title, xlabel="batch")
    axes[0, 0].legend(fontsize=7)
    for axis, (name, counts) in zip(axes.flat[columns:], histograms.items(), strict=False):
        used = counts[:, : int(counts.sum(0).nonzero().max()) + 1] if counts.any() else counts
        axis.imshow(used.log1p().T.numpy(), origin="lower", aspect="auto")
        axis.set(title=name, xlabel="batch", yticks=[])
    return figure


def show_image(image: Any, title: str = "") -> "Figure":
    """An image: see `show_images`."""
    return show_images([image], [title])


def show_images(images: Iterable[Any], titles: Iterable[str] = (), columns: int = 8) -> "Figure":
    """Images, `columns` in a row, each under its title if it has one.

    Args:
        images: Tensors or arrays `[H, W]` or `[C, H, W]`. Bytes are shown from 0 to 255 and floats
            from 0 to 1, or over the range of the image where that is exceeded.
        titles: One for each image, or fewer.
        columns: The most images in a row.
    """
    shown = [_in_range(torch.as_tensor(image)) for image in images]
    columns = min(columns, len(shown))
    figure, axes = _subplots(-(-len(shown) // columns), columns, 1.5, 1.7)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, shown, strict=False):
        _show(axis, image)
    for axis, title in zip(axes.flat[: len(shown)], titles, strict=False):
        axis.set_title(title, fontsize=7)
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
    figure = show_images(images, captions)
    figure.suptitle(title)
    return figure


def save(figure: "Figure", path: Path | str) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(Path(path)) as part:
        figure.savefig(part, dpi=150, format="png")


def as_png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def subplots(
    rows: int, columns: int, size: tuple[float, float], widths: Sequence[float] | None = None
) -> tuple["Figure", Any]:
    """A figure of `size` inches with axes `[rows, columns]`, whose columns share it by `widths`."""
    from twinloop.canvas import PlainFigure  # matplotlib takes long to import

    # Not by pyplot, which would keep a reference to every figure.
    figure = PlainFigure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=widths)


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple["Figure", Any]:
    """Axes of `width` x `height` inches each, below a title."""
    return subplots(rows, columns, (max(columns * width, 3.0), rows * height + 0.5))


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def _counts_and_shares(matrix: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A confusion matrix, and its rows as shares of the images of a true class."""
    counts = matrix.cpu().numpy()
    return counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _show(axis: Any, image: Tensor) -> None:
    pixels = image.detach().float().cpu().clamp(0, 1)
    axis.imshow(pixels.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.axis("off")


def _in_range(image: Tensor) -> Tensor:
    """An image `[H, W]` or `[C, H, W]` as floats `[C, H, W]` from 0 to 1."""
    pixels = image.detach().float() / (255 if image.dtype == torch.uint8 else 1)
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return pixels if pixels.ndim == 3 else pixels[None]
