"""The time from a folder of images on disk to their pixels, once: small images, and photographs.

Every way begins with the folder: listing it, and starting processes, are part of its time.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.pairs import in_turn, row, seconds_of
from twinloop.data import cache
from twinloop.data.decode_splits import Reading
from twinloop.data.source import find_source

TORCHVISION = f"{sys.prefix}/torchvision"
"""Where `make bench` installs it."""
OURS, LOOP = "twinloop, into its cache", "a loop over datasets"
IMAGE_FOLDER = "ImageFolder, 2 workers"
SMALL, PHOTOGRAPHS = "1,000 PNG of 64x64", "48 JPEG of 12 megapixels, to 128x128"
Size = tuple[int, int]
Way = Callable[[Path, Size], dict[str, Tensor]]
"""Read the images of a folder, resized: uint8 `[N, C, H, W]` by class."""


def measure(source: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each way to read a folder; the data set of the other parts plays no role."""
    found = []
    with TemporaryDirectory() as folder:
        write_small(Path(folder) / "small", 1000)
        write_photographs(Path(folder) / "photographs", 12, 4)
        for on, name, size in (
            (SMALL, "small", (64, 64)),
            (PHOTOGRAPHS, "photographs", (128, 128)),
        ):
            ways = {
                way: partial(seconds, read, Path(folder) / name, size) for way, read in WAYS.items()
            }
            times = in_turn(ways, rounds)
            found += [row(times, OURS, other, experiment=on) for other in (LOOP, IMAGE_FOLDER)]
    return found


def seconds(read: Way, folder: Path, size: Size) -> float:
    """Seconds that a way takes."""
    return seconds_of(lambda: read(folder, size), torch.device("cpu"))


def by_twinloop(folder: Path, size: Size) -> dict[str, Tensor]:
    """Ours, into a new cache; a sixth is held out as always."""
    with TemporaryDirectory() as place:
        data = cache.load(find_source(str(folder)), Path(place), Reading(image_size=size))
        images = torch.cat([data.train.images, data.test.images])
        labels = torch.cat([data.train.labels, data.test.labels])
    return {name: images[labels == label] for label, name in enumerate(data.spec.class_names)}


def by_datasets(folder: Path, size: Size) -> dict[str, Tensor]:
    """A plain loop, image by image."""
    import datasets

    with TemporaryDirectory() as place:
        rows = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=place)["train"]
        names = rows.features["label"].names
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for one in rows:
            image = one["image"].convert("RGB")
            if image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            found[names[one["label"]]].append(pixels)
    return {name: torch.stack(images) for name, images in found.items()}


def by_image_folder(folder: Path, size: Size) -> dict[str, Tensor]:
    """torchvision's, in two workers of a DataLoader."""
    datasets, transforms = torchvision()
    change = transforms.Compose([transforms.Resize(size), transforms.PILToTensor()])
    rows = datasets.ImageFolder(str(folder), change)
    batches = list(DataLoader(rows, 50, num_workers=2))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return {name: images[labels == label] for label, name in enumerate(rows.classes)}


def torchvision() -> Any:
    """Its data sets and transforms, from a folder of its own, beside any build of torch.

    Where it is made for another build its operators cannot be loaded. These parts need none of
    them, but it looks for two. torchmetrics, which would import it too, has been imported by now.
    """
    if TORCHVISION not in sys.path:
        sys.path.append(TORCHVISION)
    try:
        from torchvision import datasets, transforms
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        from torchvision import datasets, transforms
    return datasets, transforms


WAYS: dict[str, Way] = {OURS: by_twinloop, LOOP: by_datasets, IMAGE_FOLDER: by_image_folder}


def write_small(folder: Path, images: int) -> None:
    """Write images of 64x64 of two classes, as PNG."""
    draw = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(path)


def write_photographs(folder: Path, different: int, copies: int, width: int = 4000) -> None:
    """Write JPEGs of two classes with coarse and fine detail and noise, and links to each."""
    size = width, width * 3 // 4
    draw = np.random.default_rng(0)
    for number in range(different):
        coarse, fine = (
            Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            for shape in ((12, 16), (300, 400))
        )
        pixels = np.asarray(Image.blend(coarse, fine, 0.3)) + draw.normal(0, 6, (*size[::-1], 1))
        path = folder / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        for copy in range(1, copies):
            path.with_stem(f"{number}-{copy}").hardlink_to(path)
