"""Write the predictions of a trained model on a user's own images."""

import csv
import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twinloop import figures
from twinloop.errors import escape_unprintable
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.evaluation import evaluating
from twinloop.tasks import Classification, MultiLabel, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "source.txt"
"""Names the folder of images that predictions are of."""
SHOWN = 64
"""Images in the overview, at most."""


class _Predicted(NamedTuple):
    """The columns of the table, the arrays of the archive, and the overview."""

    header: list[str]
    rows: list[list[str | float]]
    arrays: dict[str, Tensor]
    figure: "Figure"


def predictions_folder(run: Path, source: Path) -> Path:
    """Where predictions of an image file, or of a folder, belong: not on those of another one."""
    for number in itertools.count():
        suffix = f"-{number}" if number else ""
        folder = run / "predictions" / f"{source.resolve().name}{suffix}"
        note = folder / SOURCE
        if not folder.exists() or (
            note.exists() and note.read_text(encoding="utf-8") == str(source.resolve())
        ):
            return folder
    raise AssertionError("unreachable")


def write_predictions(
    task: Task, images: Tensor, outputs: Tensor, paths: list[Path], source: Path, folder: Path
) -> None:
    """Write predictions.csv, predictions.npz and overview.png, and reconstructions as PNG files.

    The folder is replaced as a whole. A file name that a spreadsheet would evaluate (`=1+1`) is
    prefixed by an apostrophe in the CSV.

    Args:
        task: The task with its trained weights.
        images: The inputs of the network, `[N, C, H, W]` in [0, 1].
        outputs: Its outputs: images `[N, C, H, W]`, logits `[N, classes]` or numbers `[N, K]`.
        paths: The file of each image.
        source: The folder of images given by the user, or the only file.
        folder: The folder to write to.
    """
    root = source.parent if paths == [source] else source
    names = [escape_unprintable(path.relative_to(root).as_posix()) for path in paths]
    title = f"{task.spec.name}: {len(names)} images of {escape_unprintable(source.name)}"
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if isinstance(task.network, Autoencoder):
        found = _reconstructed(task, images, outputs, title)
        for name, image in zip(_png_names(names), outputs, strict=True):
            _save_image(image, part / "reconstructions" / name)
    else:
        describe = _classified if isinstance(task, Classification) else _valued
        found = describe(task, images, outputs, title)
    with (part / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, ["file", *found.header]))
        for name, row in zip(names, found.rows, strict=True):
            writer.writerow(map(_cell, [name, *row]))
    contents = {name: array.numpy() for name, array in found.arrays.items()}
    np.savez(part / "predictions.npz", allow_pickle=False, files=np.array(names), **contents)
    figures.save(found.figure, part / "overview.png")
    (part / SOURCE).write_text(str(source.resolve()), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _reconstructed(task: Task, images: Tensor, outputs: Tensor, title: str) -> _Predicted:
    """The codes and errors of an autoencoder."""
    network = task.network
    assert isinstance(network, Autoencoder)
    weight = next(network.parameters())  # has the device and the type
    with evaluating(network), torch.no_grad():
        codes = network.encode(images.to(weight)).flatten(1).float().cpu()
    errors = (outputs - images).square().flatten(1).mean(1)
    header = ["mse", *(f"code_{number}" for number in range(codes.shape[1]))]
    rows = torch.cat([errors[:, None], codes], dim=1).tolist()
    arrays = {"reconstructions": outputs, "codes": codes, "mse": errors}
    shown = {"yours": images[:10], "reconstruction": outputs[:10]}
    return _Predicted(header, rows, arrays, figures.reconstructions(shown, title))


def _classified(task: Task, images: Tensor, outputs: Tensor, title: str) -> _Predicted:
    """The most probable class of each image, and the probabilities of all."""
    probabilities = outputs.softmax(1)
    best = probabilities.max(1)
    classes = [task.spec.class_names[label] for label in best.indices.tolist()]
    rows = [[name, *row] for name, row in zip(classes, probabilities.tolist(), strict=True)]
    captions = [
        f"{name}\n{share:.0%}" for name, share in zip(classes, best.values.tolist(), strict=True)
    ]
    return _Predicted(
        ["class", *task.spec.class_names],
        rows,
        {"logits": outputs, "probabilities": probabilities},
        figures.predictions(images[:SHOWN], captions[:SHOWN], title),
    )


def _valued(task: Task, images: Tensor, outputs: Tensor, title: str) -> _Predicted:
    """The numbers of each image, or the probability of each label."""
    values = (outputs.sigmoid() if isinstance(task, MultiLabel) else outputs).flatten(1)
    names = task.spec.class_names
    if len(names) != values.shape[1]:
        names = tuple(f"output_{number}" for number in range(values.shape[1]))
    captions = [
        "\n".join(f"{name} {value:.3g}" for name, value in zip(names[:2], row[:2], strict=True))
        for row in values[:SHOWN].tolist()
    ]
    figure = figures.predictions(images[:SHOWN], captions, title)
    return _Predicted(list(names), values.tolist(), {"outputs": outputs}, figure)


def _png_names(names: list[str]) -> list[str]:
    """A PNG file for each image, no two the same: "a.jpg" becomes "a.jpg.png"."""
    taken, found = set(names), []
    for name in names:
        target = name
        while not target.endswith(".png") or (target != name and target in taken):
            target += ".png"
        found.append(target)
    return found


def _cell(value: str | float) -> str:
    """Escape a cell that a spreadsheet would evaluate as a formula."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def _save_image(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(path)
