"""Folders of image files: which split and class each file is of, and what is left out."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from twinloop.data.folder import files_below, images_of, left_out, read_image_folder, split_folders
from twinloop.errors import UserError


def images(root: Path, *names: str) -> Path:
    """Write a grey image under each name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), number).save(path)
    return root


def read(root: Path) -> tuple[Any, list[str]]:
    """Read what is below `root`."""
    return read_image_folder(root, list(files_below(root)))


def found(root: Path) -> dict[str, list[tuple[str, str | None]]]:
    """The file of each image, below `root`, and its class, by split."""
    splits, _ = read(root)
    result = {}
    for name, split in splits.items():
        paths = [str(Path(row["path"]).relative_to(root)) for row in split["image"]]
        labels: list[str | None] = [None] * len(paths)
        if "label" in split.features:
            kind = split.features["label"]
            labels = [kind.int2str(label) if label >= 0 else None for label in split["label"]]
        result[name] = list(zip(paths, labels, strict=True))
    return result


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    images(tmp_path, "dog/1.png", "cat/a.JPG", "cat/b.webp")
    (tmp_path / "cat" / "notes.txt").touch()
    expected = [("cat/a.JPG", "cat"), ("cat/b.webp", "cat"), ("dog/1.png", "dog")]
    assert found(tmp_path) == {"train": expected}


def test_names_with_words_of_splits_are_no_splits(tmp_path: Path) -> None:
    """`datasets` would make test rows of them, and val rows of dev.png."""
    images(tmp_path, "test_tube/0.png", "test_tube/dev.png", "train/test-1.png")
    assert found(tmp_path) == {
        "train": [
            ("test_tube/0.png", "test_tube"),
            ("test_tube/dev.png", "test_tube"),
            ("train/test-1.png", "train"),
        ]
    }


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "Dev", "TESTING")]
)
def test_splits_are_known_by_their_folders(train: str, val: str, test: str, tmp_path: Path) -> None:
    images(tmp_path, f"{train}/cat/0.png", f"{train}/dog/1.png", f"{val}/dog/2.png")
    images(tmp_path, f"{test}/cat/3.png")
    assert found(tmp_path) == {
        "train": [(f"{train}/cat/0.png", "cat"), (f"{train}/dog/1.png", "dog")],
        "validation": [(f"{val}/dog/2.png", "dog")],
        "test": [(f"{test}/cat/3.png", "cat")],
    }


def test_a_folder_around_them_is_looked_into(tmp_path: Path) -> None:
    inner = images(tmp_path / "pets" / "pets", "train/cat/0.png", "train/dog/0.png", "test/1.png")
    (tmp_path / "pets" / "annotations").mkdir()
    (tmp_path / "pets" / "annotations" / "0.xml").touch()
    every = images_of(files_below(tmp_path))
    assert split_folders(tmp_path, every) == {"train": inner / "train", "test": inner / "test"}
    (inner / "dev").mkdir()  # empty, which is refused later
    assert set(split_folders(tmp_path, every)) == {"train", "test", "validation"}


def test_test_images_without_a_folder_have_no_label(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/0.png", "train/dog/0.png", "test/0.png", "test/1.png")
    assert found(tmp_path)["test"] == [("test/0.png", None), ("test/1.png", None)]


@pytest.mark.parametrize("folder", ["unknown", "images", "Test"])
def test_images_of_test_in_one_folder_that_is_no_class_have_no_label(
    folder: str, tmp_path: Path
) -> None:
    images(tmp_path, "train/cat/0.png", "train/dog/0.png", f"test/{folder}/0.png")
    assert found(tmp_path)["test"] == [(f"test/{folder}/0.png", None)]


def test_where_train_has_one_class_nothing_has_labels(tmp_path: Path) -> None:
    """As in data sets of defects, where train has none."""
    images(tmp_path, "train/good/0.png", "train/good/1.png", "test/good/2.png", "test/bent/3.png")
    assert found(tmp_path) == {
        "train": [("train/good/0.png", None), ("train/good/1.png", None)],
        "test": [("test/bent/3.png", None), ("test/good/2.png", None)],
    }


def test_images_at_different_depths_have_no_labels_and_that_is_said(tmp_path: Path) -> None:
    images(tmp_path, "cat/0.png", "dog/small/1.png", "dog/2.png")
    assert [label for _, label in found(tmp_path)["train"]] == [None] * 3
    _, (note,) = read(tmp_path)
    assert note == (
        "no labels: images lie at different depths, dog/2.png in 1 and dog/small/1.png in 2 "
        f"folders below {tmp_path}; for labels there has to be one folder for each class, at the "
        "same level"
    )


def test_an_empty_folder_beside_classes_is_named(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/0.png", "train/dog/1.png", "test/cat/2.png")
    (tmp_path / "train" / "eel").mkdir()
    (tmp_path / "train" / ".hidden").mkdir()
    _, notes = read(tmp_path)
    assert notes == [f"1 folders of {tmp_path} are empty, train/eel for example"]


@pytest.mark.parametrize("names", [["0.png", "1.png"], ["only/0.png", "only/1.png"]])
def test_images_in_one_folder_have_no_labels(names: list[str], tmp_path: Path) -> None:
    assert found(images(tmp_path, *names)) == {"train": [(name, None) for name in names]}


def test_classes_in_folders_of_folders_keep_their_whole_name(tmp_path: Path) -> None:
    images(tmp_path, "cat/black/0.png", "dog/black/0.png")
    assert [label for _, label in found(tmp_path)["train"]] == ["cat/black", "dog/black"]


def test_linked_folders_are_followed_and_a_link_to_a_folder_above_is_not(tmp_path: Path) -> None:
    images(tmp_path / "elsewhere", "0.png")
    images(tmp_path / "pets", "dog/1.png")
    (tmp_path / "pets" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pets" / "dog" / "loop").symlink_to(tmp_path / "pets")
    assert found(tmp_path / "pets") == {"train": [("cat/0.png", "cat"), ("dog/1.png", "dog")]}


def test_what_systems_leave_beside_images_is_no_image(tmp_path: Path) -> None:
    images(tmp_path, "cat/0.png")
    for name in ("cat/._0.png", "__MACOSX/0.png", ".thumbnails/1.png", "cat/Thumbs.db", "Icon\r"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "folder.png").mkdir()
    files = list(files_below(tmp_path))
    assert images_of(files) == [tmp_path / "cat" / "0.png"]
    assert left_out(tmp_path, files, {str(files[0])}) == []


REFUSED = {
    "splits as classes": (
        ["training_set/cat/0.png", "training_set/dog/0.png", "test_set/cat/1.png"],
        "test_set/cat and training_set/dog in .+ have splits where classes are expected; call the",
    ),
    "splits of years": (["train2017/0.png", "val2017/0.png"], "train2017 and val2017 in .+ have s"),
    "no train": (["val/cat/0.png", "test/cat/1.png"], "test/cat and val/cat in .+ have splits"),
    "splits two levels down": (
        ["a/0/train/x/0.png", "b/0/test/x/0.png"],
        "a/0/train/x and b/0/test/x in .+ have splits where classes are expected",
    ),
    "a class of test": (
        ["train/cat/0.png", "train/dog/0.png", "test/eel/0.png"],
        "test has the class 'eel', which train has not; its classes are cat, dog",
    ),
    "one split twice": (
        ["train/cat/0.png", "val/cat/0.png", "Dev/cat/1.png"],
        "Dev and val in .+ are both the split 'validation'; rename or join them",
    ),
}


@pytest.mark.parametrize(("names", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_could_be_meant_in_several_ways_is_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(images(tmp_path, *names))


def test_what_is_in_no_split_is_counted_with_an_example(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "extra/1.png", "2.png")
    (tmp_path / "labels.csv").touch()
    _, notes = read(tmp_path)
    assert notes == [
        f"2 image files of {tmp_path} are in no split, 2.png for example",
        "labels.csv is not read; a table of labels has to be called metadata.csv and to have a "
        "column file_name",
    ]
    files = list(files_below(tmp_path))
    assert left_out(tmp_path, files, set(map(str, files))) == []
