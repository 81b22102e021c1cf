"""What a trained model makes of a user's own images, as files."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twinloop import figures
from twinloop.errors import escape_unprintable
from twinloop.models.autoencoder import Autoencoder
from twinloop.runs.evaluation import evaluating
from twinloop.tasks import Task

SHOWN = 64
"""How many images the overview has at the most."""


def write_predictions(
    task: Task, images: Tensor, outputs: Tensor, paths: list[Path], root: Path, folder: Path
) -> None:
    """Write predictions.csv, predictions.npz and overview.png, and reconstructions as PNG files.

    In the CSV a name that a spreadsheet would compute (`=1+1`) has an apostrophe before it; in
    the npz it is as it is.

    Args:
        task: The task with its trained weights.
        images: What the network was given, `[N, C, H, W]` in [0, 1].
        outputs: What it answered: images `[N, C, H, W]` or logits `[N, classes]`.
        paths: The file of each image, below `root`.
        root: The folder of images that was asked for.
        folder: Where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [escape_unprintable(str(path.relative_to(root))) for path in paths]
    title = f"{task.spec.name}: {len(names)} images of {escape_unprintable(root.name)}"
    if isinstance(task.network, Autoencoder):
        with evaluating(task.network), torch.no_grad():
            codes = task.network.encode(images.to(task.device)).flatten(1).cpu()
        errors = (outputs - images).square().flatten(1).mean(1)
        header = ["file", "mse", *(f"code_{number}" for number in range(codes.shape[1]))]
        columns = torch.cat([errors[:, None], codes], dim=1)
        arrays = {"reconstructions": outputs, "codes": codes, "mse": errors}
        for name, image in zip(names, outputs, strict=True):
            # "a.jpg" becomes "a.jpg.png", for there may be an "a.png" too.
            suffix = "" if name.endswith(".png") else ".png"
            _save_image(image, folder / "reconstructions" / f"{name}{suffix}")
        shown = {"yours": images[:SHOWN], "reconstruction": outputs[:SHOWN]}
        figure = figures.reconstructions({k: v[:10] for k, v in shown.items()}, title)
    else:
        probabilities = outputs.softmax(1)
        header = ["file", *task.spec.class_names]
        columns = probabilities
        arrays = {"logits": outputs, "probabilities": probabilities}
        best = probabilities.max(1)
        captions = [
            f"{task.spec.class_names[label]}\n{share:.0%}"
            for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        header.insert(1, "class")
        figure = figures.predictions(images[:SHOWN], captions[:SHOWN], title)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, header))
        for name, row in zip(names, columns, strict=True):
            label = [task.spec.class_names[int(row.argmax())]] if "probabilities" in arrays else []
            numbers = (f"{value:.6g}" for value in row.tolist())
            writer.writerow([*map(_cell, [name, *label]), *numbers])
    contents = {name: array.numpy() for name, array in arrays.items()}
    np.savez(folder / "predictions.npz", allow_pickle=False, files=np.array(names), **contents)
    figures.save(figure, folder / "overview.png")


def _cell(name: str) -> str:
    """A name as text, also for a spreadsheet, which would compute one that begins as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _save_image(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(path)
