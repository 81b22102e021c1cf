"""Kinds of broken and hostile files: each draws one, and the command that reads it."""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from tests.fuzzing.sandbox import MLP, Case, Sandbox

Draw = Callable[[st.SearchStrategy[Any]], Any]
KEY = r"error: (data|model|trainer)\.\w+|error: train row \d+: "
SHORT = ("--trainer.fast_dev_run", "1")
EXPERIMENT: dict[str, Any] = {
    "experiment": "fuzz",
    "seed_everything": 42,
    "trainer": {"max_epochs": 2, "precision": "32-true", "callbacks": None},
    "data": {"source": "digits", "batch_size": 64, "augmentation": {"shift": 1, "flip": True}},
    "model": {
        "class_path": "twinloop.tasks.Classification",
        "init_args": {
            "network": {
                "class_path": "twinloop.models.SequentialClassifier",
                "init_args": {"widths": [4, 8, 8], "dropout": 0.1},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"class_path": "twinloop.tasks.OneCycle"},
        },
    },
}
NAMES = (
    "\n",
    "\x1b[2J",
    "../../out",
    "..",
    "a b",
    "=1+1",
    "[/red]",
    "$\\frac$",
    "\u202e",
    "ü",
    "-x",
)
"""Names that a terminal, a path, a spreadsheet, rich's markup or a figure would take amiss."""


# ------------------------------------------------------------------------------ experiments

LEAVES = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, -1, 0, 1, 3, 2.5, -0.5, 10**30, 1e308, float("nan"), float("inf")),
            *("", "x", "~nobody/x", "/", ".", "a/b", "\0", "x" * 5000, *NAMES),
            *("os.system", "builtins.exec", "torch.optim.AdamW", "twinloop.models.MLP", "no.where"),
        ]
    ),
    st.text(max_size=8),
    st.integers(-3, 3),
    st.floats(),
    st.dates(),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=8), inner, max_size=3),
        st.fixed_dictionaries({"class_path": LEAVES}, optional={"init_args": inner}),
    ),
    max_leaves=6,
)
FLAGS = (
    *("limit_train_batches", "gradient_clip_val", "accumulate_grad_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "max_steps", "overfit_batches"),
)


def fit(path: Path, draw: Draw) -> list[str]:
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    return ["fit", "--config", str(path), *SHORT, "--loop", loop]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key and item in a nested value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield (*at, key)
        if isinstance(part, dict | list):
            yield from places(part, (*at, key))


def mutated(value: Any, draw: Draw, values: st.SearchStrategy[Any]) -> Any:
    """`value` with one key or item in it changed, renamed, left out or moved."""
    *way, key = draw(st.sampled_from(sorted(places(value), key=str)))
    parent = value
    for step in way:
        parent = parent[step]
    change = draw(st.sampled_from(["set", "set", "set", "drop", "wrap", "rename"]))
    if change == "set":
        parent[key] = draw(values)
    elif change == "drop":
        del parent[key]
    elif change == "wrap":
        parent[key] = [parent[key]]
    elif isinstance(parent, dict):
        parent[draw(st.one_of(st.text(max_size=5), st.sampled_from([1, None, "__class__"])))] = (
            parent.pop(key)
        )
    return value


def experiment_values(draw: Draw, sandbox: Sandbox) -> Case:
    """Keys, values, types and nesting changed."""
    content = json.loads(json.dumps(EXPERIMENT))
    content["trainer"][draw(st.sampled_from(FLAGS))] = draw(LEAVES)
    for _ in range(draw(st.integers(1, 2))):
        content = mutated(content, draw, VALUES)
    path = sandbox.new("experiment.yaml")
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return Case(fit(path, draw), path, or_key=KEY)


def experiment_text(draw: Draw, sandbox: Sandbox) -> Case:
    """A file with some of its text cut out, doubled or replaced."""
    text = yaml.safe_dump(EXPERIMENT)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 20))
        alphabet = st.text("\t :-{}[]&*!|>#%@`'\"\n\0é", max_size=6)
        middle = draw(st.one_of(alphabet, st.just(text[start:end] * 2)))
        text = text[:start] + middle + text[end:]
    path = sandbox.new("experiment.yaml")
    path.write_text(text)
    return Case(fit(path, draw), path, or_key=KEY)


def experiment_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Anything at all."""
    path = sandbox.new("experiment.yaml")
    path.write_bytes(draw(st.binary(max_size=200)))
    return Case(fit(path, draw), path, refused=True)


def experiment_bomb(draw: Draw, sandbox: Sandbox) -> Case:
    """Aliases of aliases, brackets in brackets, and tags that would call Python."""
    deep = draw(st.sampled_from([30, 1_000, 100_000]))
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    text = draw(
        st.sampled_from(
            [
                f"a0: &a0 [x]\n{laughs}experiment: fuzz\ndata: *a11\n",
                f"data: {'[' * deep}{']' * deep}\n",
                f"data: {'{a: ' * deep}1{'}' * deep}\n",
                "".join(f"{' ' * n}a:\n" for n in range(min(deep, 1_000))),
                "data: &a [*a]\n",
                "data: &a {source: digits, more: *a}\n",
                f"experiment: {'x' * 10 * deep}\n",
                "data: !!python/object/apply:os.mkdir [owned]\n",
                "data: !!python/name:os.system\n",
                "!!python/object/new:os.mkdir [owned]\n",
                "data: {source: digits, source: digits}\nx: y\n",
            ]
        )
    )
    path = sandbox.new("experiment.yaml")
    path.write_text(text)
    return Case(fit(path, draw), path, refused=True)


# ------------------------------------------------------------------------------ checkpoints


def damaged(whole: bytes, draw: Draw) -> bytes:
    """A file cut off, or with a few bytes of it changed."""
    if draw(st.booleans()):
        return whole[: draw(st.integers(0, len(whole) - 1))]
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(whole) - 1))
        changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


def command_for(path: Path, draw: Draw) -> list[str]:
    """One of the commands that read a checkpoint."""
    data = ["--config", MLP, "--data.source", "digits"]
    which = draw(st.sampled_from(["test", "validate", "fit", "homemade", "compare"]))
    if which == "compare":
        return ["compare", "--config", MLP, "--against", str(path)]
    fitting = ["fit", *data, "--model.schedule", "null", "--trainer.max_epochs", "2"]
    if which in ("fit", "homemade"):
        loop = "homemade" if which == "homemade" else "lightning"
        return [*fitting, *SHORT, "--loop", loop, "--ckpt_path", str(path)]
    return [which, *data, "--ckpt_path", str(path)]


def checkpoint_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """A checkpoint cut off or flipped at random: the same numbers come out, or none."""
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    path = sandbox.new("last.ckpt")
    path.write_bytes(damaged(sandbox.checkpoints[loop].read_bytes(), draw))
    command = command_for(path, draw)
    return Case(command, path, sandbox.tested if command[0] == "test" else None)


def checkpoint_values(draw: Draw, sandbox: Sandbox) -> Case:
    """A whole checkpoint with one thing in it changed."""
    content = torch.load(sandbox.checkpoints[draw(st.sampled_from(["lightning", "homemade"]))])
    content = json_free(content)
    plain: st.SearchStrategy[Any] = st.sampled_from(
        [
            *(None, True, -1, 0, 10**30, float("nan"), "x", b"x", [], {}, ()),
            *(torch.zeros(2), torch.zeros(0, 3), torch.tensor(1 + 1j)),
            torch.zeros(1).expand(10**6, 10**6),
        ]
    )
    content = mutated(content, draw, plain)
    path = sandbox.new("last.ckpt")
    torch.save(content, path)
    return Case(command_for(path, draw), path)


def json_free(value: Any) -> Any:
    """Copies of all containers, ordered dictionaries and tuples as plain ones."""
    if isinstance(value, dict):
        return {key: json_free(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_free(part) for part in value]
    return value


# ------------------------------------------------------------------------------ data


def fit_on(source: Path, draw: Draw, *options: str) -> list[str]:
    loop = draw(st.sampled_from(["lightning", "homemade"]))
    data = ["--data.source", str(source), "--data.val_size", "2", "--model.schedule", "null"]
    return ["fit", "--config", MLP, *data, *SHORT, "--loop", loop, *options]


def picture(draw: Draw) -> bytes:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) + draw(st.integers(0, 190))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, draw(st.sampled_from(["PNG", "JPEG"])))
    return file.getvalue()


def class_folders(folder: Path, draw: Draw, name: str = "a") -> list[Path]:
    """Eight pictures of two classes."""
    paths = []
    for number in range(8):
        path = folder / ("cat", name)[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(draw))
        paths.append(path)
    return paths


def pictures_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Class folders with one damaged picture."""
    folder = sandbox.new("pets")
    path = draw(st.sampled_from(class_folders(folder, draw)))
    path.write_bytes(damaged(path.read_bytes(), draw))
    return Case(fit_on(folder, draw), path.name)


def parquet_bytes(draw: Draw, sandbox: Sandbox) -> Case:
    """Hub layout with a damaged parquet file."""
    folder = sandbox.new("pets")
    path = write_parquet(folder, [picture(draw) for _ in range(8)], [0, 1] * 4)
    path.write_bytes(damaged(path.read_bytes(), draw))
    return Case(fit_on(folder, draw), folder, or_key=KEY)


def write_parquet(folder: Path, pictures: list[bytes], labels: list[int]) -> Path:
    """A data set in Hub layout whose labels are plain numbers."""
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = {"image": [{"bytes": file, "path": None} for file in pictures], "label": labels}
    folder.mkdir(parents=True)
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def labels(draw: Draw, sandbox: Sandbox) -> Case:
    """Labels out of their range."""
    folder = sandbox.new("pets")
    wrong = draw(st.one_of(st.integers(8, 2**62), st.integers(-(2**62), -1)))
    found = [0, 1] * 4
    found[draw(st.integers(0, 7))] = wrong
    write_parquet(folder, [picture(draw) for _ in range(8)], found)
    return Case(fit_on(folder, draw), str(wrong), refused=True)


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
    """Folders, classes, pictures and experiments of any name."""
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
    """A black picture as PNG, of any size in little time and memory."""

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


def sizes(draw: Draw, sandbox: Sandbox) -> Case:
    """A picture of another size, up to 20,000 x 20,000, among those to predict."""
    folder = sandbox.new("my pictures")
    folder.mkdir()
    width, height = draw(st.sampled_from([(1, 1), (1, 5000), (8000, 7000), (20_000, 20_000)]))
    refused = width * height > 50_000_000
    path = folder / "odd size.png"
    path.write_bytes(black(width, height))
    command = ["predict", "--config", MLP, "--data.images", str(folder)]
    return Case(
        [*command, "--ckpt_path", str(sandbox.checkpoints["lightning"])],
        path,
        refused=refused,
    )


KINDS: dict[str, Callable[[Draw, Sandbox], Case]] = {
    kind.__name__: kind
    for kind in (
        *(experiment_values, experiment_text, experiment_bytes, experiment_bomb),
        *(checkpoint_bytes, checkpoint_values),
        *(pictures_bytes, parquet_bytes, labels, folders, names, sizes),
    )
}
