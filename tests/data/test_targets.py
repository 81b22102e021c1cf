"""Targets that are not one class, from a folder of images with a list."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from twinloop.data.augment import Augmentation
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError

ROWS = 12
TAGS = [["cat"], ["cat", "dog"], [], ["dog", "ant"]]


def write_pairs(folder: Path, rows: int = ROWS) -> Path:
    """Images of 6x5, each with another image, numbers and labels."""
    folder.mkdir()
    lines = []
    for row in range(rows):
        pixels = np.full((6, 5), 10 * row % 256, np.uint8)
        pixels[0, 0] = 255
        for kind, image in (("a", pixels), ("b", 255 - pixels)):
            Image.fromarray(image).save(folder / f"{kind}{row}.png")
        tags = TAGS[row % 4]
        numbers = {"age": row, "size": row / 4, "box": [row, 0.5, -1.0], "ragged": [1] * (row + 1)}
        files = {"file_name": f"a{row}.png", "after_file_name": f"b{row}.png"}
        lines.append(files | numbers | {"tags": tags, "words": "; ".join(tags) or None})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("targets") / "pairs")


def module(pairs: Path, **options: Any) -> ImageDataModule:
    return ImageDataModule(
        str(pairs), image_column="image", val_size=2, batch_size=4, cache_dir=pairs / "c", **options
    )


NUMBERS: dict[str, tuple[Any, list[float]]] = {
    "a whole number": ("age", [3]),
    "a float": ("size", [0.75]),
    "a list": ("box", [3, 0.5, -1]),
    "columns": (["size", "box", "age"], [0.75, 3, 0.5, -1, 3]),
}


@pytest.mark.parametrize(("column", "third"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_are_rows_of_floats(column: Any, third: list[float], pairs: Path) -> None:
    data = module(pairs, target="numbers", label_column=column)
    assert data.sizes == {"train": 8, "val": 2, "test": 2}
    assert data.spec.class_names == ()
    images, numbers = data.data.train.images, data.data.train.labels
    assert numbers.dtype == torch.float32
    (row,) = (images[:, 0, 1, 1] == 30).nonzero().flatten().tolist()
    assert numbers[row].tolist() == third
    _, batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert torch.equal(batch, numbers[data.rows["val"]])
    assert data.facts.measures_test


@pytest.mark.parametrize("column", ["tags", "words"])
def test_several_labels_are_ones_in_zeros(column: str, pairs: Path) -> None:
    data = module(pairs, target="labels", label_column=column)
    assert data.spec.class_names == ("ant", "cat", "dog")
    train = data.data.train
    expected = [
        [float(name in TAGS[pixel // 10 % 4]) for name in data.spec.class_names]
        for pixel in train.images[:, 0, 1, 1].tolist()
    ]
    assert train.labels.tolist() == expected


def test_an_image_of_another_column_is_decoded_and_augmented_as_the_first(pairs: Path) -> None:
    options = {"target": "image", "label_column": "after", "image_size": (12, 10)}
    data = module(pairs, augmentation=Augmentation(shift=1, flip=True), **options)
    assert data.data.train.labels.shape == (10, 1, 12, 10)
    plain, target = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    torch.testing.assert_close(target, 1 - plain, atol=1.01 / 255, rtol=0)
    changed, target = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert ((changed == 0) & (target == 0)).any()  # the gap of a shift, in both
    inside = (changed > 0) | (target > 0)
    torch.testing.assert_close(target[inside], 1 - changed[inside], atol=1.01 / 255, rtol=0)
    assert not list((pairs / "c").glob("*/targets"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no column": ({"target": "numbers"}, "data.target is 'numbers'; set data.label_column"),
    "unknown": ({"target": "labels", "label_column": "x"}, "data.label_column: there is no column"),
    "no numbers": (
        {"target": "numbers", "label_column": "words"},
        "train row 0: column 'words' is 'cat', which is not 1 finite numbers",
    ),
    "ragged": (
        {"target": "numbers", "label_column": "ragged"},
        "train row 1: column 'ragged' is [1, 1], which is not 1 finite numbers",
    ),
    "an image": (
        {"target": "numbers", "label_column": "after"},
        "'after' has the type Image(mode=None, decode=False), which is not 'numbers'",
    ),
    "no image": ({"target": "image", "label_column": "age"}, "'age' has the type Value('int64')"),
    "two columns": (
        {"target": "image", "label_column": ["a", "b"]},
        "data.label_column: several columns are numbers, and not 'image'",
    ),
    "columns of classes": (
        {"label_column": ["age", "size"]},
        "data.label_column: several columns need data.target 'numbers'",
    ),
    "skipped": (
        {"target": "image", "label_column": "after", "skip_unreadable": True},
        "data.skip_unreadable: images as targets are in pairs; correct them",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_such_target_is_named(options: Any, message: str, pairs: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        _ = module(pairs, **options).sizes
