"""Lists of images: which rows belong to which split, and what of a list is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from twinloop.data.folder import files_below
from twinloop.data.metadata import read_listed
from twinloop.errors import UserError


def folder(root: Path, *names: str, **lists: str) -> Path:
    """Write images, and lists by their suffixes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(path)
    for suffix, text in lists.items():
        (root / f"metadata.{suffix}").write_text(text)
    return root


def found(root: Path) -> dict[str, list[tuple[str, object]]]:
    """The file of each image, below `root`, and its label, by split."""
    return {
        name: [(str(Path(row["image"]["path"]).relative_to(root)), row["label"]) for row in split]
        for name, split in read_listed(root, list(files_below(root))).items()
    }


def test_one_list_above_the_splits_is_for_all(tmp_path: Path) -> None:
    text = "file_name,label\ntest/2.png,5\ntrain/1.png,7\ntrain\\0.png,5\n"
    folder(tmp_path, "train/0.png", "train/1.png", "test/2.png", csv=text)
    assert found(tmp_path) == {
        "train": [("train/1.png", 7), ("train/0.png", 5)],
        "test": [("test/2.png", 5)],
    }


def test_a_list_in_every_class_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        folder(tmp_path / name, "0.png", csv=f"file_name,label\n0.png,{name}\n")
    assert found(tmp_path) == {"train": [("cat/0.png", "cat"), ("dog/0.png", "dog")]}


def test_a_split_without_a_list_has_no_labels(tmp_path: Path) -> None:
    folder(tmp_path / "train", "0.png", csv="file_name,label\n0.png,true\n")
    folder(tmp_path / "test", "0.png")
    assert found(tmp_path) == {"train": [("train/0.png", True)], "test": [("test/0.png", None)]}


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    text = '{"file_name": "0.png", "label": "1"}\n{"file_name": "1.png", "label": "02"}\n'
    folder(tmp_path, "0.png", "1.png", jsonl=text)
    assert found(tmp_path) == {"train": [("0.png", "1"), ("1.png", "02")]}


def test_a_value_may_have_any_character_but_the_end_of_a_line(tmp_path: Path) -> None:
    """str.splitlines would split at each of these."""
    signs = ["\u2028", "\x85", "\x0c", "\x1d"]
    names = [f"{number}.png" for number in range(4)]
    rows = [f"{name},a{sign}b,{sign}c\n" for name, sign in zip(names, signs, strict=True)]
    folder(tmp_path / "a", *names, csv="".join(["file_name,label,title\n", *rows]))
    objects = [
        json.dumps({"file_name": name, "label": f"a{sign}b"}, ensure_ascii=False) + "\n\n"
        for name, sign in zip(names, signs, strict=True)
    ]
    folder(tmp_path / "b", *names, jsonl="".join(objects))
    for place in (tmp_path / "a", tmp_path / "b"):
        expected = [(name, f"a{sign}b") for name, sign in zip(names, signs, strict=True)]
        assert found(place) == {"train": expected}


def test_a_column_may_name_the_splits(tmp_path: Path) -> None:
    text = "file_name,label,split\n0.png,5,train\n1.png,7,TEST\n2.png,7,val\n"
    folder(tmp_path, "0.png", "1.png", "2.png", csv=text)
    assert found(tmp_path) == {
        "train": [("0.png", 5)],
        "test": [("1.png", 7)],
        "validation": [("2.png", 7)],
    }
    folder(tmp_path, csv=text.replace("val", "other"))
    assert list(found(tmp_path)) == ["train"]


WRONG = {
    "too many cells": (
        {"csv": "file_name,title,label\n0.png,one,a\n1.png,one, two,b\n"},
        "metadata.csv: row 2 has 4 cells for 3 columns; save it again",
    ),
    "one name twice": (
        {"csv": "file_name,label,label\n0.png,a,b\n"},
        "metadata.csv: there are 2 columns 'label'; save it again",
    ),
    "no file_name": (
        {"csv": "filename,label\n0.png,a\n"},
        r"metadata.csv row 1: no file_name, only \['filename', 'label'\]; the column of the",
    ),
    "no JSON": ({"jsonl": "{\n"}, r"metadata.jsonl: Expecting .+; save it again"),
    "no object": ({"jsonl": "[1]\n"}, r"metadata.jsonl row 1: no file_name, only \[1\]"),
    "outside": ({"csv": "file_name\n../a.png\n"}, r"row 1: .+/a.png is not in"),
    "twice": ({"csv": "file_name\n0.png\n./0.png\n"}, "lists .+/0.png twice"),
    "mixed": (
        {"jsonl": '{"file_name": "0.png", "x": 1}\n{"file_name": "1.png", "x": "a"}\n'},
        "data.source: the lists of ",
    ),
}


@pytest.mark.parametrize(("lists", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_a_list_is_refused(
    lists: dict[str, str], message: str, tmp_path: Path
) -> None:
    root = folder(tmp_path / "pets", "0.png", **lists)
    with pytest.raises(UserError, match=message) as caught:
        read_listed(root, list(files_below(root)))
    assert "\n" not in str(caught.value)


def test_a_list_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "0.png")
    (tmp_path / "metadata.csv").write_bytes("file_name,label\n0.png,\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata.csv: is not in UTF-8; save it again"):
        read_listed(tmp_path, list(files_below(tmp_path)))
