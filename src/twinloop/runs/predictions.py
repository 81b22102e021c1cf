"""Write the predictions of a trained model on a user's own images."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twinloop import figures
from twinloop.errors import escape_unprintable
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.evaluation import evaluating
from twinloop.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 64
"""Images in the overview of a classifier, at most."""
RECONSTRUCTED = 10
"""Images in the overview of an autoencoder, at most."""


class Predictions(NamedTuple):
    """The predictions on N images, as they are written."""

    header: list[str]
    classes: list[list[str]]  # of each image the name of its class, or nothing
    values: Tensor  # [N, columns]
    arrays: dict[str, Tensor]
    overview: "Figure"


def write_predictions(
    task: Task, images: Tensor, outputs: Tensor, paths: list[Path], root: Path, folder: Path
) -> None:
    """Write predictions.csv, predictions.npz and overview.png, and reconstructions as PNG files.

    A file name that a spreadsheet would evaluate (`=1+1`) is prefixed by an apostrophe in the CSV.

    Args:
        task: The task with its trained weights.
        images: The inputs of the network, `[N, C, H, W]` in [0, 1].
        outputs: Its outputs: images `[N, C, H, W]` or logits `[N, classes]`.
        paths: The file of each image, below `root`.
        root: The folder of images given by the user.
        folder: The folder to write to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [escape_unprintable(str(path.relative_to(root))) for path in paths]
    title = f"{task.spec.name}: {len(names)} images of {escape_unprintable(root.name)}"
    is_autoencoder = isinstance(task.network, Autoencoder)
    found = (_reconstructions if is_autoencoder else _classes)(task, images, outputs, title)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, ["file", *found.header]))
        for name, label, row in zip(names, found.classes, found.values.tolist(), strict=True):
            writer.writerow([*map(_cell, [name, *label]), *(f"{value:.6g}" for value in row)])
    arrays = {name: array.numpy() for name, array in found.arrays.items()}
    np.savez(folder / "predictions.npz", allow_pickle=False, files=np.array(names), **arrays)
    for name, image in zip(names, outputs if is_autoencoder else (), strict=is_autoencoder):
        # "a.jpg" becomes "a.jpg.png", for there may be an "a.png" too.
        suffix = "" if name.endswith(".png") else ".png"
        _save_image(image, folder / "reconstructions" / f"{name}{suffix}")
    figures.save(found.overview, folder / "overview.png")


def _reconstructions(task: Task, images: Tensor, outputs: Tensor, title: str) -> Predictions:
    network: Any = task.network
    with evaluating(network), torch.no_grad():
        codes = network.encode(images.to(task.device)).flatten(1).cpu()
    errors = (outputs - images).square().flatten(1).mean(1)
    shown = {"yours": images[:RECONSTRUCTED], "reconstruction": outputs[:RECONSTRUCTED]}
    return Predictions(
        ["mse", *(f"code_{number}" for number in range(codes.shape[1]))],
        [[] for _ in outputs],
        torch.cat([errors[:, None], codes], dim=1),
        {"reconstructions": outputs, "codes": codes, "mse": errors},
        figures.reconstructions(shown, title),
    )


def _classes(task: Task, images: Tensor, logits: Tensor, title: str) -> Predictions:
    probabilities = logits.softmax(1)
    shares, labels = (part.tolist() for part in probabilities.max(1))
    classes = [task.spec.class_names[label] for label in labels]
    captions = [f"{name}\n{share:.0%}" for name, share in zip(classes, shares, strict=True)]
    return Predictions(
        ["class", *task.spec.class_names],
        [[name] for name in classes],
        probabilities,
        {"logits": logits, "probabilities": probabilities},
        figures.predictions(images[:SHOWN], captions[:SHOWN], title),
    )


def _cell(text: str) -> str:
    """A cell's text, which a spreadsheet must not evaluate as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _save_image(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(path)
