"""Data sets and images that are damaged, empty, out of range, or oddly called."""

import io
import shutil
import zlib
from pathlib import Path

import datasets
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzzing.damage import damaged
from tests.fuzzing.sandbox import KEY, MLP, NAMES, SHORT, Case, Draw, Sandbox


def fit_on(source: Path, draw: Draw, *options: str) -> list[str]:
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    data = ["--data.source", str(source), "--data.val_size", "2", "--model.schedule", "null"]
    return ["fit", "--config", MLP, *data, *SHORT, "--loop", loop, *options]


def image(draw: Draw) -> bytes:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) + draw(st.integers(0, 190))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, draw(st.sampled_from(["PNG", "JPEG"])))
    return file.getvalue()


def class_folders(folder: Path, draw: Draw, name: str = "a") -> list[Path]:
    """Eight images of two classes."""
    paths = []
    for number in range(8):
        path = folder / ("cat", name)[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(draw))
        paths.append(path)
    return paths


def image_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Class folders with one damaged image."""
    folder = sandbox.new("pets")
    path = draw(st.sampled_from(class_folders(folder, draw)))
    path.write_bytes(damaged(path.read_bytes(), draw))
    return Case(fit_on(folder, draw), path.name)


def parquet_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Hub layout with a damaged parquet file."""
    folder = sandbox.new("pets")
    path = write_parquet(folder, [image(draw) for _ in range(8)], [0, 1] * 4)
    path.write_bytes(damaged(path.read_bytes(), draw))
    return Case(fit_on(folder, draw), folder, or_key=KEY)


def write_parquet(folder: Path, images: list[bytes], labels: list[int]) -> Path:
    """A data set in Hub layout whose labels are plain numbers."""
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": [{"bytes": file, "path": None} for file in images], "label": labels}
    folder.mkdir(parents=True)
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def labels(draw: Draw, sandbox: Sandbox) -> Case:
    """Labels that are any numbers, or -1, which stands for none."""
    folder = sandbox.new("pets")
    odd = draw(st.one_of(st.just(-1), st.integers(-(2**62), 2**62)))
    found = [0, 1] * 4
    found[draw(st.integers(0, 7))] = odd
    write_parquet(folder, [image(draw) for _ in range(8)], found)
    return Case(fit_on(folder, draw), "-1", refused=odd == -1)


def folders(draw: Draw, sandbox: Sandbox) -> Case:
    """Folders with nothing in them, or with other things."""
    folder = sandbox.new("pets")
    folder.mkdir()
    names = [
        *NAMES,
        "train.parquet",
        "x.csv",
        "README.md",
        "dataset_infos.json",
        "pets.py",
        "x.zip",
    ]
    for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        if "/" in name or name == "..":
            continue
        content = b"open('owned', 'w')" if name.endswith(".py") else draw(st.binary(max_size=60))
        (folder / name).write_bytes(content)
    return Case(fit_on(folder, draw), folder, refused=True)


def names(draw: Draw, sandbox: Sandbox) -> Case:
    """Folders, classes, images and experiments of any name."""
    name = draw(st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=6)))
    safe = name.replace("/", "_").replace("\0", "_")
    safe = "x" if safe in (".", "..") else safe
    try:
        safe.encode()
    except UnicodeEncodeError:
        safe = "x"
    folder = sandbox.new(safe)
    paths = class_folders(folder, draw, name=safe)
    if draw(st.booleans()):
        paths[0].rename(paths[0].with_name(f"{safe}.png"))
    if draw(st.booleans()):
        paths[3].write_bytes(b"broken")
    command = fit_on(folder, draw)
    if draw(st.booleans()):
        command.append(f"--experiment={name}".replace("\0", "_"))
    return Case(command, "")


def black(width: int, height: int) -> bytes:
    """A black image as PNG, of any size in little time and memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return len(content).to_bytes(4) + kind + content + check.to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj()
    row = bytes(1 + -(-width // 8))
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


SIZES = [(1, 1), (1, 5000), (8000, 7000), (20_000, 20_000)]


def sizes(draw: Draw, sandbox: Sandbox) -> Case:
    """An image of another size, up to 20,000 x 20,000, among those to predict."""
    folder = sandbox.new("my images")
    folder.mkdir()
    width, height = draw(st.sampled_from(SIZES))
    refused = width * height > 50_000_000
    path = folder / "odd size.png"
    path.write_bytes(black(width, height))
    checkpoint = sandbox.new("last.ckpt")  # what comes out is written beside it
    shutil.copy(sandbox.checkpoints["lightning", "at the end"], checkpoint)
    command = ["predict", "--config", MLP, "--data.images", str(folder)]
    return Case([*command, "--ckpt_path", str(checkpoint)], path, refused=refused)
