"""A data set is decoded once, exactly, whole or not at all; bad data is named by its row."""

import io
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from twinloop.data import cache, decode_splits, pool
from twinloop.data.decode import Decoded, Rows, decode_rows
from twinloop.data.decode_splits import Reading
from twinloop.data.source import Source
from twinloop.errors import UserError

Pixels = NDArray[np.uint8]
CLASSES = datasets.ClassLabel(names=["cat", "dog"])
NUMBERS = datasets.Value("int64")
LABELS = [0, 1] * 3
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 5, 4), dtype=np.uint8)
"""Nine grey images of 5x4."""


def encoded(pixels: Pixels | Image.Image) -> dict[str, Any]:
    """An image as the row of a data set."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


GREY = [encoded(image) for image in PIXELS]


def table(**columns: tuple[Any, Sequence[Any]]) -> Any:
    """A split from columns of (feature, values)."""
    features = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    types = features.arrow_schema
    arrays = {name: pa.array(rows, types.field(name).type) for name, (_, rows) in columns.items()}
    return datasets.Dataset(pa.table(arrays, schema=types))


def split(images: Sequence[Any], labels: Sequence[Any], kind: Any = CLASSES) -> Any:
    """A split with the usual two columns."""
    return table(image=(datasets.Image(), images), label=(kind, labels))


def replaced(row: int, image: Any) -> Any:
    """Six images, one of them another."""
    return split([*GREY[:row], image, *GREY[row + 1 : 6]], LABELS)


WHOLE = split(GREY[:6], LABELS)
BROKEN = {"bytes": GREY[0]["bytes"][:-40], "path": None}


def source(name: str = "pets", key: str = "1", **splits: Any) -> Source:
    return Source(name, key, lambda: (datasets.DatasetDict(splits), []))


def never() -> Any:
    raise AssertionError("read again")


def test_pixels_and_labels_are_exact(tmp_path: Path) -> None:
    labels = [0, 1, 1, 0, 1]
    data = cache.load(
        source(train=split(GREY[:5], labels), test=split(GREY[5:], [1, 0, 0, 1])), tmp_path
    )
    np.testing.assert_array_equal(data.train.images, PIXELS[:5, None])
    np.testing.assert_array_equal(data.test.images, PIXELS[5:, None])
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert data.train.labels.tolist() == labels
    assert data.test.labels.tolist() == [1, 0, 0, 1]
    assert (len(data.train), len(data.test), data.test_split) == (5, 4, "test")
    assert data.spec.name == "pets"
    assert data.spec.image_shape == (1, 5, 4)
    assert data.spec.class_names == ("cat", "dog")


def test_colour_has_three_channels_and_mixed_sizes_are_resized(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (4, 5, 3, 3), dtype=np.uint8)
    rows = split(list(map(encoded, colour)), [0] * 4)
    data = cache.load(source(train=rows, test=rows), tmp_path)
    np.testing.assert_array_equal(data.train.images, colour.transpose(0, 3, 1, 2))


def test_image_size_makes_mixed_sizes_one(tmp_path: Path) -> None:
    flat = [np.full(size, 100, np.uint8) for size in ((5, 4), (8, 8), (1, 9))]
    test = split([encoded(flat[0])], [0])
    mixed = source(train=split(list(map(encoded, flat)), [0, 1, 0]), test=test)
    data = cache.load(mixed, tmp_path, Reading(image_size=(6, 7)))
    assert data.spec.image_shape == (1, 6, 7)
    assert torch.equal(data.train.images, torch.full((3, 1, 6, 7), 100, dtype=torch.uint8))


def test_a_sixth_is_held_out_without_a_test_split(tmp_path: Path) -> None:
    images = [encoded(np.full((2, 2), number, np.uint8)) for number in range(36)]
    data = cache.load(source(train=split(images, [0] * 12 + [1] * 24)), tmp_path)
    assert data.test_split == "16.7% of train, held out"
    assert data.train.labels.bincount().tolist() == [10, 20]
    assert data.test.labels.bincount().tolist() == [2, 4]
    numbers = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0]
    assert numbers.sort().values.tolist() == list(range(36))
    for part in (data.train, data.test):  # each image kept its label
        assert torch.equal((part.images[:, 0, 0, 0] >= 12).long(), part.labels)


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_an_official_validation_split_is_used_as_test_split(name: str, tmp_path: Path) -> None:
    data = cache.load(
        source(train=split(GREY[:6], LABELS), **{name: split(GREY[6:8], [1, 1])}), tmp_path
    )
    assert data.test_split == "validation"
    np.testing.assert_array_equal(data.test.images, PIXELS[6:8, None])


def test_columns_are_found_by_their_features_and_labels_may_be_numbers(tmp_path: Path) -> None:
    rows = table(
        title=(datasets.Value("string"), ["x"] * 6),
        scan=(datasets.Image(), GREY[:6]),
        weight=(datasets.Value("int32"), [7] * 6),  # a class label goes before a number
        animal=(CLASSES, LABELS),
    )
    data = cache.load(source(train=rows, test=rows), tmp_path)
    np.testing.assert_array_equal(data.train.images, PIXELS[:6, None])
    assert data.train.labels.tolist() == LABELS


VALUES = {
    "numbers with a gap": ("uint8", [10, 20, 20, 10], ("10", "20")),
    "numbers from 1": ("int64", [2, 1, 3, 2], ("1", "2", "3")),
    "words": ("string", ["dog", "cat", "dog", "ant"], ("ant", "cat", "dog")),
    "yes or no": ("bool", [True, False, False, True], ("False", "True")),
}


@pytest.mark.parametrize(("kind", "values", "names"), VALUES.values(), ids=VALUES.keys())
def test_distinct_values_are_the_classes_where_nothing_has_class_names(
    kind: str, values: list[Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    rows = split(GREY[:4], values, datasets.Value(kind))
    data = cache.load(source(train=rows, test=rows), tmp_path)
    assert data.spec.class_names == names
    assert [names[label] for label in data.train.labels] == list(map(str, values))


def test_several_labels_for_an_image_are_refused(tmp_path: Path) -> None:
    tags = table(image=(datasets.Image(), GREY[:2]), tags=(datasets.List(NUMBERS), [[0, 1], [1]]))
    message = "cannot be the label column; one label per image is supported"
    with pytest.raises(UserError, match=message):
        cache.load(source(train=tags), tmp_path, Reading(label_column="tags"))


@pytest.mark.parametrize("label", [-1, None])
def test_a_test_split_may_keep_its_labels_to_itself(label: int | None, tmp_path: Path) -> None:
    test = split(GREY[6:9], [label] * 3, NUMBERS)
    data = cache.load(source(train=split(GREY[:6], LABELS, NUMBERS), test=test), tmp_path)
    assert data.test.labels.tolist() == [-1] * 3
    assert data.notes == ("test has no labels: no metrics on it that need them",)


def test_labels_of_minus_one_are_missing_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train row 1: column 'label' is -1, which is no class"):
        cache.load(source(train=split(GREY[:4], [7, -1, 7, 9], NUMBERS)), tmp_path)
    data = cache.load(source(train=split(GREY[:4], [-1] * 4, NUMBERS)), tmp_path)
    assert data.spec.class_names == ()


def test_data_without_labels_is_read(tmp_path: Path) -> None:
    data = cache.load(source(train=table(image=(datasets.Image(), GREY))), tmp_path)
    assert data.spec.class_names == ()
    assert (len(data.train), len(data.test)) == (7, 2)
    assert data.notes == ("no labels: no column of labels among ['image']",)


def test_a_validation_split_beside_test_is_validation(tmp_path: Path) -> None:
    splits = {"train": WHOLE, "test": split(GREY[6:8], [0, 1]), "dev": split(GREY[8:], [1])}
    data = cache.load(source(**splits), tmp_path)
    assert (data.test_split, data.val_rows) == ("test", 1)
    np.testing.assert_array_equal(data.train.images, PIXELS[[0, 1, 2, 3, 4, 5, 8], None])
    assert data.train.labels.tolist() == [*LABELS, 1]


def test_grey_before_colour_is_decoded_in_colour(tmp_path: Path) -> None:
    colour = encoded(Image.new("RGB", (4, 5), (10, 20, 30)))
    data = cache.load(source(train=replaced(4, colour)), tmp_path)
    assert data.spec.image_shape == (3, 5, 4)
    data = cache.load(source(train=replaced(4, colour)), tmp_path, Reading(channels=1))
    assert data.spec.image_shape == (1, 5, 4)


def test_every_image_that_cannot_be_read_is_listed_or_left_out(tmp_path: Path) -> None:
    rows = split([GREY[0], BROKEN, *GREY[1:5], None], [0, 1, 0, 1, 0, 1, 1])
    damaged = source(train=rows, test=WHOLE, validation=replaced(2, BROKEN))
    with pytest.raises(UserError) as caught:
        cache.load(damaged, tmp_path)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        "data.source: 3 images cannot be read; set data.skip_unreadable to true to go without"
    )
    assert [line.split(":")[0].strip() for line in lines] == [
        *("train row 1", "train row 6", "validation row 2")
    ]
    data = cache.load(damaged, tmp_path, Reading(skip_unreadable=True))
    assert data.train.labels.tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 0, 1]
    kept = [*range(5), 0, 1, 3, 4, 5]
    np.testing.assert_array_equal(data.train.images, PIXELS[kept, None])
    assert data.val_rows == 5
    assert data.notes[0].startswith("3 images that cannot be read left out: train row 1: ")


def test_animations_are_reported(tmp_path: Path) -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(pixels) for pixels in PIXELS[:2]]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    moving = {"bytes": file.getvalue(), "path": None}
    data = cache.load(source(train=replaced(4, moving)), tmp_path)
    assert data.notes == ("of 1 animations the first frame is read (train row 4)",)


TWO = table(
    a=(datasets.Image(), GREY[:4]),
    b=(datasets.Image(), GREY[4:8]),
    fine=(CLASSES, [0, 1, 0, 1]),
    coarse=(CLASSES, [1, 1, 1, 0]),
    number=(NUMBERS, [0, 1, 2, 0]),
    text=(datasets.Value("string"), ["x"] * 4),
)


def test_an_option_chooses_between_columns(tmp_path: Path) -> None:
    def labels(column: str) -> list[int]:
        both = source(train=TWO, test=TWO)
        data = cache.load(both, tmp_path, Reading(image_column="b", label_column=column))
        np.testing.assert_array_equal(data.train.images, PIXELS[4:8, None])
        found: list[int] = data.train.labels.tolist()
        return found

    assert labels("fine") == [0, 1, 0, 1]
    assert labels("coarse") == [1, 1, 1, 0]
    assert labels("number") == [0, 1, 2, 0]


COLUMNS = {
    "two images": (
        {"label_column": "fine"},
        "be the image column: ['a', 'b']; set data.image_column",
    ),
    "two labels": (
        {"image_column": "a"},
        "be the label column: ['fine', 'coarse']; set data.label_column",
    ),
    "no such": ({"image_column": "c"}, "data.image_column: there is no column 'c', only ['a', "),
    "no images": (
        {"image_column": "text"},
        "data.image_column: 'text' has the type Value('string'), which",
    ),
    "no labels": (
        {"image_column": "a", "label_column": "texts"},
        "data.label_column: there is no column 'texts'",
    ),
    "labels of images": (
        {"image_column": "a", "label_column": "b"},
        "data.label_column: 'b' has the type Image(",
    ),
}


@pytest.mark.parametrize(("options", "message"), COLUMNS.values(), ids=COLUMNS.keys())
def test_a_wrong_or_missing_column_names_the_option(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        cache.load(source(train=TWO), tmp_path, Reading(**options))


BAD = {
    "no image column": (
        {"train": table(label=(CLASSES, LABELS))},
        "data.source: the data set has no image column among ['label']",
    ),
    "no train split": (
        {"test": WHOLE},
        "data.source: pets has no split 'train', only ['test']",
    ),
    "empty train": ({"train": split([], [])}, "data.source: the split 'train' of pets is empty"),
    "empty test": (
        {"train": WHOLE, "test": split([], [])},
        "data.source: the split 'test' of pets is empty",
    ),
    "one image": ({"train": split(GREY[:1], [0])}, "has only 1 image, too few to train on"),
    "label too large": (
        {"train": WHOLE, "test": split(GREY[:3], [0, 1, 2], NUMBERS).cast_column("label", NUMBERS)},
        "test row 2: column 'label' is 2, which is no class of train (0, 1; 1 such rows)",
    ),
    "label below 0": (
        {"train": split(GREY[:6], [0, -1, 1, -1, 1, 1])},
        "train row 1: column 'label' is -1, which is no class of train (0, 1; 2 such rows)",
    ),
    "label missing": (
        {"train": split(GREY[:6], [0, 1, None, 1, 0, 1])},
        "train row 2: column 'label' has no label",
    ),
    "numbers that are no classes": (
        {"train": split([GREY[0]] * 20, range(11, 31), NUMBERS)},
        "column 'label' has 20 different values for 20 images of train, which are no classes; "
        "set data.label_column",
    ),
    "first image missing": ({"train": replaced(0, None)}, "train row 0: has no image"),
    "image missing": ({"train": replaced(4, None)}, "train row 4: has no image"),
    "first image corrupt": (
        {"train": replaced(0, {"bytes": b"corrupt", "path": None})},
        "train row 0: not an image that can be read",
    ),
    "cut-off image in test": (
        {"train": WHOLE, "test": replaced(5, BROKEN)},
        "test row 5: cannot be decoded (",
    ),
    "mixed sizes": (
        {"train": replaced(2, encoded(PIXELS[0].T.copy()))},
        "train row 2: 4x5 pixels where the first image has 5x4; set data.image_size",
    ),
    "huge image": (
        {"train": replaced(2, encoded(Image.new("1", (8_000, 7_000))))},
        "train row 2: 8000x7000 is over the limit of 50,000,000 pixels; make it smaller",
    ),
}


@pytest.mark.parametrize(("splits", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_is_refused_in_one_line_and_caches_nothing(
    splits: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        cache.load(source(**splits), tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_second_load_maps_the_files_and_decodes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        cache.load(source(train=replaced(4, None)), tmp_path)
    first = cache.load(source(train=WHOLE), tmp_path)  # mended, so it is decoded again
    written = cache.load(Source("pets", "1", never), tmp_path)
    written.train.images.zero_()  # changes this process's copy only
    second = cache.load(Source("pets", "1", never), tmp_path)
    assert second.spec == first.spec
    assert second.test_split == first.test_split
    assert torch.equal(second.train.images, first.train.images)
    assert "train-images.npy" in Path("/proc/self/maps").read_text()


def test_every_option_that_changes_the_pixels_has_a_cache_of_its_own(tmp_path: Path) -> None:
    cache.load(source(train=WHOLE), tmp_path)
    options: list[dict[str, Any]] = [{"image_size": (3, 3)}, {"image_column": "image"}]
    options += [{"label_column": "label"}, {"channels": 3}, {"background": "black"}]
    for option in [*options, {"skip_unreadable": True}]:
        cache.load(source(train=WHOLE), tmp_path, Reading(**option))
    for name, key in (("pets", "2"), ("cats", "1")):
        cache.load(source(name, key, train=WHOLE), tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 9


@pytest.mark.parametrize("name", ["pets", "pets[1]"])
def test_an_incomplete_cache_of_a_killed_process_is_replaced(name: str, tmp_path: Path) -> None:
    whole = cache.load(source(name, train=WHOLE), tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    (folder / "spec.json").unlink()  # what is written last
    folder.rename(f"{folder}.part-unfinished")
    again = cache.load(source(name, train=WHOLE), tmp_path)
    assert again.spec == whole.spec
    assert torch.equal(again.train.images, whole.train.images)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_the_cache_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        cache.load(source(train=WHOLE), tmp_path)
    finally:
        os.umask(mask)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_cache_folder_that_is_full_or_no_folder_is_reported(tmp_path: Path) -> None:
    # A petabyte, which no disk has room for.
    message = rf"data.cache_dir: cannot write to {tmp_path}: .+"
    with pytest.raises(UserError, match=message):
        cache.load(source(train=WHOLE), tmp_path, Reading(image_size=(10**7, 10**7)))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / "file").touch()
    message = f"data.cache_dir: cannot write to {tmp_path}/file: File exists"
    with pytest.raises(UserError, match=re.escape(message)):
        cache.load(source(train=WHOLE), tmp_path / "file")


def test_a_full_disk_names_the_cache(tmp_path: Path) -> None:
    # A petabyte, which no disk has room for.
    message = rf"data.cache_dir: cannot write to {tmp_path}: .+"
    with pytest.raises(UserError, match=message):
        cache.load(source(train=WHOLE), tmp_path, Reading(image_size=(10**7, 10**7)))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_system_without_fallocate_decodes_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cache.load(source(train=WHOLE), tmp_path / "with").spec
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert cache.load(source(train=WHOLE), tmp_path / "without").spec == expected


def test_the_fingerprint_tells_the_data_and_not_where_it_was(tmp_path: Path) -> None:
    def fingerprint(rows: Any, key: str) -> str:
        return cache.load(source(key=key, train=rows, test=rows), tmp_path).spec.fingerprint

    first = fingerprint(WHOLE, "here")
    assert re.fullmatch("[0-9a-f]{64}", first)
    bitmaps = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(bitmaps, "BMP")
    assert fingerprint(replaced(0, {"bytes": bitmaps.getvalue(), "path": None}), "there") == first
    changed = PIXELS[0].copy()
    changed[4, 3] ^= 1
    assert fingerprint(replaced(0, encoded(changed)), "one bit") != first
    assert fingerprint(split(GREY[:6], [1, *LABELS[1:]]), "one label") != first


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode as large data sets are decoded."""
    monkeypatch.setattr(decode_splits, "ROWS_PER_TASK", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.mark.slow
@pytest.mark.usefixtures("in_processes")
def test_several_processes_decode_the_same(tmp_path: Path) -> None:
    data = cache.load(source(train=split(GREY, [0] * 9), test=WHOLE), tmp_path)
    np.testing.assert_array_equal(data.train.images, PIXELS[:, None])
    np.testing.assert_array_equal(data.test.images, PIXELS[:6, None])


@pytest.mark.slow
@pytest.mark.usefixtures("in_processes")
def test_a_failure_in_a_decoding_process_names_the_row_and_ends_no_other(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        corrupt = replaced(4, {"bytes": b"corrupt", "path": None})
        with pytest.raises(UserError, match="test row 4: not an image that can be read"):
            cache.load(source(train=WHOLE, test=corrupt), tmp_path)
        assert multiprocessing.active_children() == [other]
        assert other.is_alive()
    finally:
        other.terminate()
        other.join()


def test_a_few_images_are_decoded_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    assert len(cache.load(source(train=WHOLE), tmp_path).train) == 5


def test_a_split_that_is_not_used_is_named(tmp_path: Path) -> None:
    splits = {"train": WHOLE, "test": WHOLE, "extra": split(GREY, [0] * 9), "val": WHOLE}
    data = cache.load(source(**splits, dev=WHOLE), tmp_path)
    assert data.notes == (
        "the split 'extra' of 9 images is not used",
        "the split 'dev' of 6 images is not used",
    )


def part_of(place: Path) -> Path:
    """The folder of what was decoded before it was killed."""
    (part,) = place.glob("*.part-unfinished")
    return part


class Killed(BaseException):
    """As abrupt as a signal, in a test's own process."""


def kill_after(tasks: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have decoding end after so many tasks, once; return a list of the rows of each task."""
    done: list[int] = []

    def until_killed(rows: Rows) -> Decoded:
        if len(done) == tasks:
            done.append(0)
            raise Killed
        done.append(len(rows.images))
        return decode_rows(rows)

    monkeypatch.setattr(pool, "decode_rows", until_killed)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(decode_splits, "ROWS_PER_TASK", 2)
    return done


MOVING = io.BytesIO()
Image.fromarray(PIXELS[0]).save(
    MOVING, "GIF", save_all=True, append_images=[Image.fromarray(PIXELS[1])]
)
MIXED = split([{"bytes": MOVING.getvalue(), "path": None}, BROKEN, *GREY[2:9]], [0, 1] * 4 + [0])
"""Nine images: an animation, one that cannot be read, and seven."""
RESUMED = {
    "held out": ({"train": MIXED}, Reading(skip_unreadable=True)),
    "splits": (
        {"train": WHOLE, "test": replaced(1, BROKEN), "val": MIXED},
        Reading(skip_unreadable=True),
    ),
    "colour": (
        {"train": replaced(5, encoded(Image.new("RGB", (4, 5), "red"))), "test": WHOLE},
        Reading(),
    ),
}


@pytest.mark.parametrize("tasks", range(1, 5))
@pytest.mark.parametrize(("splits", "reading"), RESUMED.values(), ids=RESUMED.keys())
def test_a_decoding_that_was_killed_is_resumed_to_the_same(
    splits: dict[str, Any],
    reading: Reading,
    tasks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = cache.load(source(**splits), tmp_path / "whole", reading)
    done = kill_after(tasks, monkeypatch)
    with pytest.raises(Killed):
        cache.load(source(**splits), tmp_path / "killed", reading)
    assert not list((tmp_path / "killed").glob("*[0-9a-f]/spec.json"))
    before = len(done) - 1
    again = cache.load(source(**splits), tmp_path / "killed", reading)
    assert (again.spec, again.notes, again.val_rows) == (whole.spec, whole.notes, whole.val_rows)
    for one, other in ((again.train, whole.train), (again.test, whole.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    names = {path.name for path in (tmp_path / "whole").rglob("*")}
    assert {path.name for path in (tmp_path / "killed").rglob("*")} == names
    if not (whole.spec.image_shape[0] == 3 and tasks < 4):  # the tasks in grey were in vain
        images = sum(map(len, splits.values()))
        assert sum(done[before:]) < images
        assert f" of {images} images are decoded already\n" in capsys.readouterr().out


def test_a_decoding_of_another_plan_or_a_damaged_journal_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cache.load(source(train=WHOLE, test=WHOLE), tmp_path / "whole")
    for number, damage in enumerate((b'{"shape": [1, 5, 4]}\n', b"\0\0\n", b"[1]\n")):
        with monkeypatch.context() as patch:
            done = kill_after(4, patch)
            with pytest.raises(Killed):
                cache.load(source(train=WHOLE, test=WHOLE), tmp_path / str(number))
            journal = part_of(tmp_path / str(number)) / "decoded.jsonl"
            journal.write_bytes(damage + journal.read_bytes().partition(b"\n")[2])
        with monkeypatch.context() as patch:
            done = kill_after(9, patch)
            again = cache.load(source(train=WHOLE, test=WHOLE), tmp_path / str(number))
            assert sum(done) == 12
        assert again.spec == whole.spec


def test_a_line_that_was_cut_off_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cache.load(source(train=WHOLE, test=WHOLE), tmp_path / "whole")
    done = kill_after(3, monkeypatch)
    with pytest.raises(Killed):
        cache.load(source(train=WHOLE, test=WHOLE), tmp_path / "killed")
    journal = part_of(tmp_path / "killed") / "decoded.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    before = len(done)
    assert cache.load(source(train=WHOLE, test=WHOLE), tmp_path / "killed").spec == whole.spec
    assert done[before:] == [2, 2, 2, 2]


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_while_rows_are_left_out_does_no_harm(
    renamed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"train": MIXED, "test": MIXED}
    reading = Reading(skip_unreadable=True)
    whole = cache.load(source(**splits), tmp_path / "whole", reading)
    renames = itertools.count()
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if next(renames) == renamed:
            raise Killed
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # no time for it
        with pytest.raises(Killed):
            cache.load(source(**splits), tmp_path / "killed", reading)
    assert cache.load(source(**splits), tmp_path / "killed", reading).spec == whole.spec


@pytest.mark.slow
def test_a_failure_leaves_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_splits, "ROWS_PER_TASK", 2)
    with pytest.raises(UserError, match="train row 5"):
        cache.load(source(train=replaced(5, BROKEN), test=WHOLE), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


SLOW = """
import io, os, sys
from pathlib import Path
import datasets
import numpy as np
from PIL import Image
from twinloop.data import cache, decode_splits
from twinloop.data.decode_splits import Reading
from twinloop.data.source import Source
from twinloop.runs.stop import StoppedAtOnce, stopping_at_once

def file_of(number):
    file = io.BytesIO()
    Image.fromarray(np.full((2000, 2000), number, np.uint8)).save(file, "png", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}

def read():
    names = datasets.ClassLabel(names=["one", "other"])
    rows = {"image": list(map(file_of, range(120))), "label": [0, 1] * 60}
    features = datasets.Features(image=datasets.Image(), label=names)
    return datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features)), []

decode_splits.ROWS_PER_TASK, os.cpu_count = 2, lambda: 2
try:
    with stopping_at_once():
        data = cache.load(Source("slow", "1", read), Path(sys.argv[1]), Reading(image_size=(8, 8)))
        print(data.spec.fingerprint)
except StoppedAtOnce as stopped:
    print(stopped)
    sys.exit(stopped.status)
"""
"""Decodes large images in two processes of its own."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `SLOW` prints where nobody stops it."""
    place = str(tmp_path_factory.mktemp("whole"))
    return subprocess.run(
        [sys.executable, "-c", SLOW, place], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_decoding_ends_at_once_with_every_process_of_it_and_is_resumed(
    number: signal.Signals, whole: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        patience = time.monotonic() + 60
        while lines_of_journals(tmp_path) < 5:
            assert time.monotonic() < patience
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal does
        else:
            child.send_signal(number)
        patience = time.monotonic() + 30
        printed, errors = child.communicate()
        while group_exists(child.pid):
            assert time.monotonic() < patience, "a process is left"
            time.sleep(0.01)
    if number == signal.SIGKILL:
        assert child.returncode == -number
    else:
        assert child.returncode == 128 + number
        assert printed.startswith(f"stopped by {number.name}")
        assert errors == ""
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".part-unfinished"]
    again = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said, fingerprint = again.stdout.splitlines(keepends=True)
    resumed = re.fullmatch(r"(\d+) of 120 images are decoded already\n", said)
    assert resumed
    assert 8 <= int(resumed[1]) < 120
    assert fingerprint == whole


def lines_of_journals(place: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in place.glob("*/decoded.jsonl"))


LARGE = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from twinloop.data import arrays, cache
from twinloop.data.decode_splits import Reading
from twinloop.data.source import find_source

def peak():
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children()) // 1024

def children():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

if __name__ == "__main__":
    folder, place = Path(sys.argv[1]), Path(sys.argv[2])
    arrays.PIECE = 1 << 20
    small = find_source(str(folder / "small"))
    cache.load(small, place, Reading(image_size=(256, 256), channels=3))
    before = peak()
    large = find_source(str(folder / "large"))
    cache.load(large, place, Reading(image_size=(256, 256), channels=3, skip_unreadable=True))
    print(before, peak())
"""
"""The peak MB of a process and its decoders, after a few images and after many."""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Of 1,200 images of 197 kB, one cannot be read, and a sixth is held out."""
    for name, copies in (("small", 12), ("large", 1200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), "red").save(tmp_path / name / "0.png")
        for number in range(1, copies):
            (tmp_path / name / f"{number}.png").hardlink_to(tmp_path / name / "0.png")
    (tmp_path / "large" / "broken.png").write_bytes(b"broken")
    script = tmp_path / "script.py"
    script.write_text(LARGE)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.splitlines()[-1].split())
    arrays = sum(path.stat().st_size for path in tmp_path.glob("cache/large*/*.npy")) / 1e6
    assert arrays > 230
    assert after - before < 60, done.stdout


UNGUARDED = """
import os
import sys
from pathlib import Path
from twinloop.data import cache, decode_splits
from twinloop.data.datamodule import ImageDataModule

decode_splits.ROWS_PER_TASK = 500
os.cpu_count = lambda: 2
print(ImageDataModule("digits", cache_dir=Path(sys.argv[1])).sizes)
"""
"""Decodes in processes that import it."""


@pytest.mark.slow
def test_a_script_without_a_main_guard_fails_at_once_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    told = "UserError: a decoding process ended early: images are decoded in processes that import"
    assert done.stderr.splitlines()[-1].startswith(f"twinloop.errors.{told}")
    assert "UserError: images are decoded in processes that import" in done.stderr  # and where
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_script_that_is_piped_in_decodes_in_its_own_process(tmp_path: Path) -> None:
    code = UNGUARDED.replace("sys.argv[1]", repr(str(tmp_path / "cache")))
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
