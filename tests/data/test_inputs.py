"""Every kind of input that the documentation names is read as it says there, or refused."""

import csv
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from twinloop.data import decode
from twinloop.data.datamodule import ImageDataModule
from twinloop.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TOP = np.zeros((8, 6), np.uint8)
TOP[:4] = 200
"""A grey image of 8x6 whose upper half is bright."""
Write = Callable[[Path], None]


class Input(NamedTuple):
    """A kind of input, and what becomes of it."""

    what: str
    how: str
    write: Write
    expected: Any
    """The first pixel of the first image, the classes, the sizes or a note; or part of an error."""
    options: Mapping[str, Any] = MappingProxyType({})


def save(path: Path, image: NDArray[Any] | Image.Image = TOP, **options: Any) -> None:
    """Write an image file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)


def classes(
    folder: Path, image: NDArray[Any] | Image.Image = TOP, suffix: str = "png", **options: Any
) -> None:
    """Two images for each of two classes."""
    for name in ("cat/0", "cat/1", "dog/2", "dog/3"):
        save(folder / f"{name}.{suffix}", image, **options)


def files(*names: str) -> Write:
    """Write an image under each of `names`."""

    def write(folder: Path) -> None:
        for name in names:
            save(folder / name)

    return write


def labels(*values: object) -> Write:
    """Write images of these labels, listed in metadata.csv."""

    def write(folder: Path) -> None:
        for number in range(len(values)):
            save(folder / f"{number}.png")
        with (folder / "metadata.csv").open("w", newline="") as file:
            rows: Iterable[Any] = ((f"{n}.png", value) for n, value in enumerate(values))
            csv.writer(file).writerows([("file_name", "label"), *rows])

    return write


def listed(text: str, *names: str) -> Write:
    """Write four images, or those of `names`, and metadata.csv."""

    def write(folder: Path) -> None:
        files(*(names or (f"{number}.png" for number in range(4))))(folder)
        (folder / "metadata.csv").write_text(text)

    return write


def on_its_side(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    classes(folder, np.rot90(TOP).copy(), exif=exif)


def ink(folder: Path) -> None:
    pixels = np.zeros((8, 6, 2), np.uint8)
    pixels[4, 4, 1] = 255
    classes(folder, pixels)


def grey_then_colour(folder: Path) -> None:
    classes(folder)
    save(folder / "dog" / "3.png", np.stack([TOP] * 3, 2))


def animation(folder: Path) -> None:
    classes(folder)
    other = Image.new("L", (6, 8))
    save(folder / "cat" / "0.gif", TOP, save_all=True, append_images=[other])


def black_is_most(folder: Path) -> None:
    """TIFF files that say of 16 bits that 0 is white: a fax, or a radiograph."""
    for name in ("cat/0", "cat/1", "dog/2", "dog/3"):
        save(folder / f"{name}.tif", (255 - TOP).astype(np.uint16) * 257)
        file = (folder / f"{name}.tif").read_bytes()
        one = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
        assert file.count(one) == 1
        zero = file.replace(one, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
        (folder / f"{name}.tif").write_bytes(zero)


def photograph(folder: Path) -> None:
    """Its upper left quarter is bright; the blocks of the JPEG are of one grey each."""
    pixels = np.full((256, 256), 40, np.uint8)
    pixels[:128, :128] = 200
    classes(folder, Image.fromarray(pixels), "jpg", quality=100)


def iphone(folder: Path) -> None:
    classes(folder)
    (folder / "cat" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))


def linked_to_nothing(folder: Path) -> None:
    classes(folder)
    (folder / "cat" / "4.png").symlink_to("/nowhere/4.png")


def beside(name: str) -> Write:
    """Write two classes and a file that is no image by its name."""

    def write(folder: Path) -> None:
        classes(folder)
        (folder / name).touch()

    return write


def beside_annotations(folder: Path) -> None:
    files("images/Train/a/0.png", "images/Train/b/1.png", "images/test/b/2.png")(folder)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "0.xml").touch()


def beside_an_empty_folder(folder: Path) -> None:
    classes(folder)
    (folder / "eel").mkdir()


def unlabelled_test(folder: Path) -> None:
    for split, label in (("train", "ab"), ("test", ["", ""])):
        files("0.png", "1.png")(folder / split)
        rows = "".join(f"{n}.png,{label[n]}\n" for n in range(2))
        (folder / split / "metadata.csv").write_text(f"file_name,label\n{rows}")


def withheld_test(folder: Path) -> None:
    """Classes of words, and -1 in test."""
    for split, labels in (("train", "ab"), ("test", ["-1", "-1"])):
        listed(f"file_name,label\n0.png,{labels[0]}\n1.png,{labels[1]}\n", "0.png", "1.png")(
            folder / split
        )


def truncated(folder: Path) -> None:
    classes(folder)
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[:-30])


PIXELS = [
    Input("turned by EXIF", "upright", on_its_side, [200]),
    Input("transparent", "on white, or `--data.background`", ink, [255]),
    Input("transparent, `background: black`", "on black", ink, [0], {"background": "black"}),
    Input(
        "16 bits, grey",
        "scaled to 8 over the whole range",
        lambda folder: classes(folder, TOP.astype(np.uint16) * 257),
        [200],
    ),
    Input("16 bits of which 0 is white", "inverted", black_is_most, [200]),
    Input(
        "32 bits or floats",
        "refused",
        lambda folder: [classes(folder), save(folder / "cat" / "0.tif", TOP.astype(np.int32))],  # type: ignore[arg-type, func-returns-value]
        "pixels of mode I do not fit 8 bits; convert it to grey or RGB",
    ),
    Input(
        "a palette of greys",
        "grey",
        lambda folder: classes(folder, Image.fromarray(TOP).convert("P")),
        [200],
    ),
    Input("grey and colour, in any order", "all in colour", grey_then_colour, [200] * 3),
    Input("the same, `channels: 1`", "all in grey", grey_then_colour, [200], {"channels": 1}),
    Input("an animation", "its first frame, with a note", animation, [200]),
    Input(
        "a JPEG of 8 times `image_size` or more",
        "decoded at a reduced scale, then resized",
        photograph,
        [200],
        {"image_size": (16, 16)},
    ),
    Input(
        "HEIF",
        "with the package `pillow-heif`, else refused",
        iphone,
        "cat/1.heic: HEIF is read only with the package pillow-heif; install it, or convert to",
    ),
    Input("one that cannot be read", "all such are listed, and refused", truncated, "cat/1.png"),
    Input(
        "the same, `skip_unreadable: true`",
        "left out, with a note",
        truncated,
        {"train": 2, "val": 0, "test": 1},
        {"skip_unreadable": True, "val_size": 0},
    ),
]
FOLDERS = [
    Input("a folder for each class", "its name is the class", classes, ("cat", "dog")),
    Input(
        "classes such as `test_tube`, `train`",
        "classes",
        files("test_tube/0.png", "test_tube/1.png", "train/2.png", "train/3.png"),
        ("test_tube", "train"),
    ),
    Input(
        "`train`, `val` and `test`, in any case",
        "splits",
        files("Train/a/0.png", "Train/b/1.png", "Val/a/2.png", "Test/b/3.png"),
        {"train": 2, "val": 1, "test": 1},
    ),
    Input(
        "classes in folders of folders",
        "`a/b` is the class",
        files("a/x/0.png", "a/y/1.png", "b/x/2.png", "b/x/3.png"),
        ("a/x", "a/y", "b/x"),
    ),
    Input(
        "splits inside of classes: `cat/train`",
        "refused",
        files("cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"),
        "have splits where classes are expected; call the folders of splits train, val and test",
    ),
    Input(
        "`train_images` beside `test_images`",
        "refused",
        files("train_images/0.png", "train_images/1.png", "test_images/2.png"),
        "test_images and train_images in .+ have splits where classes are expected",
    ),
    Input(
        "all images in one of several folders",
        "as if it were alone",
        beside_annotations,
        ("a", "b"),
    ),
    Input(
        "an empty folder beside classes",
        "no class, with a note",
        beside_an_empty_folder,
        ["1 folders of FOLDER are empty, eel for example"],
    ),
    Input(
        "one class in train",
        "without labels, whatever test has",
        files("train/good/0.png", "train/good/1.png", "test/good/2.png", "test/bent/3.png"),
        (),
    ),
    Input(
        "`test/unknown`, or all of test in `test`",
        "test without labels, with a note",
        files("train/a/0.png", "train/b/1.png", "test/unknown/2.png"),
        ["test has no labels: no metrics on it that need them"],
    ),
    Input(
        "`images` beside `masks`",
        "refused",
        files("images/0.png", "images/1.png", "masks/0.png", "masks/1.png"),
        "which are no classes; pass the folder of images alone",
    ),
    Input(
        "accents, composed or decomposed",
        "the same class",
        files("train/caf\xe9/0.png", "train/dog/1.png", "test/cafe\u0301/2.png"),
        ("caf\xe9", "dog"),
    ),
    Input(
        "images at different depths",
        "without labels, with a note",
        files("a/0.png", "b/c/1.png", "b/c/2.png"),
        ["no labels: images lie at different depths, a/0.png in 1 and b/c/2.png in 2 folders"],
    ),
    Input("images in one folder", "without labels", files(*(f"{n}.png" for n in range(4))), ()),
    Input(
        "hidden files, `__MACOSX`",
        "left out",
        files("cat/0.png", "cat/1.png", "dog/2.png", "__MACOSX/eel/0.png", "cat/.0.png"),
        ("cat", "dog"),
    ),
    Input(
        "a link to a file that is gone",
        "as one that cannot be read",
        linked_to_nothing,
        r"cat/4.png: cannot be read \(No such file or directory\)",
    ),
    Input(
        "other kinds of files: `.dng`, `.npy`, none",
        "not read, with a note",
        beside("cat/4.dng"),
        ["1 files of FOLDER are not read, cat/4.dng for example; images are known by suffixes"],
    ),
    Input(
        "an archive alone",
        "refused",
        lambda folder: (folder / "pets.zip").touch(),
        "has pets.zip and no images; unpack it",
    ),
]
LABELS = [
    Input("words", "classes, in their order", labels("b", "a", "b", "a"), ("a", "b")),
    Input("true and false", "classes", labels(True, False, True, False), ("False", "True")),
    Input(
        "numbers from 1, or with gaps", "the numbers are the classes", labels(1, 7, 7), ("1", "7")
    ),
    Input(
        "numbers with zeros before them",
        "words",
        listed("file_name,label\n0.png,01\n1.png,1\n2.png,01\n3.png,1\n"),
        ("01", "1"),
    ),
    Input(
        "words such as NA and None",
        "classes",
        listed("file_name,label\n0.png,NA\n1.png,None\n2.png,NA\n3.png,None\n"),
        ("NA", "None"),
    ),
    Input(
        "separated by `;`, with a mark of UTF-8",
        "as with commas",
        listed("\ufefffile_name;label\n0.png;b\n1.png;a\n2.png;b\n3.png;a\n"),
        ("a", "b"),
    ),
    Input(
        "an empty cell",
        "refused",
        listed("file_name,label\n0.png,1\n1.png,\n2.png,0\n3.png,1\n"),
        "train row 1: column 'label' has no label",
    ),
    Input(
        "all cells of test empty, or -1",
        "test without labels, with a note",
        unlabelled_test,
        ["test has no labels: no metrics on it that need them"],
    ),
    Input(
        "-1 for all of test, beside classes that are words",
        "test without labels, with a note",
        withheld_test,
        ["test has no labels: no metrics on it that need them"],
    ),
    Input(
        "a column `split` of train, val and test",
        "splits",
        listed("file_name,label,split\n0.png,a,train\n1.png,b,Train\n2.png,a,val\n3.png,b,test\n"),
        {"train": 2, "val": 1, "test": 1},
    ),
    Input(
        "no column `label`, one of whole numbers",
        "the labels, with a note",
        listed("file_name,age\n0.png,3\n1.png,4\n2.png,3\n3.png,4\n"),
        ["the labels are column 'age'; set data.label_column to another"],
    ),
    Input(
        "a row with more cells than there are columns",
        "refused",
        listed("file_name,title,label\n0.png,a,b\n1.png,a, b,c\n2.png,a,b\n"),
        "row 2 has 4 cells for 3 columns; save it again",
    ),
    Input(
        "`cat,dog` beside `cat` and `dog`",
        "refused",
        listed('file_name,label\n0.png,"cat,dog"\n1.png,cat\n2.png,dog\n3.png,cat\n'),
        "column 'label' has 'cat,dog', which is several of its other values; one label per image",
    ),
    Input(
        "an image that is listed twice",
        "refused",
        listed("file_name,label\n0.png,a\n1.png,b\n2.png,a\n0.png,b\n"),
        "metadata.csv lists .+/0.png twice",
    ),
    Input(
        "an image that is not listed",
        "left out, with a note",
        listed("file_name,label\n0.png,a\n1.png,b\n2.png,a\n"),
        ["1 image files of FOLDER are in no split, 3.png for example"],
    ),
    Input(
        "nearly as many values as images",
        "refused",
        labels(*range(20)),
        "which are no classes; set data.label_column",
    ),
]
INPUTS = {"pixels": PIXELS, "folders": FOLDERS, "labels, in `metadata.csv`": LABELS}


@pytest.mark.parametrize(
    "given", [found for kind in INPUTS.values() for found in kind], ids=lambda given: given.what
)
def test_it_is_read_as_the_page_says(
    given: Input, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "HEIF", False)  # also where its reader is installed
    folder = tmp_path / "pets"
    folder.mkdir()
    given.write(folder)
    data = ImageDataModule(str(folder), cache_dir=tmp_path / "cache", **given.options)
    if isinstance(given.expected, str):
        with pytest.raises(UserError, match=given.expected):
            _ = data.sizes
    elif isinstance(given.expected, dict):
        assert data.sizes == given.expected
    elif isinstance(given.expected, tuple):
        assert data.spec.class_names == given.expected
    elif isinstance(given.expected[0], str):
        note, *_ = data.data.notes
        assert note.startswith(given.expected[0].replace("FOLDER", str(folder)))
    else:
        assert data.data.train.images[0, :, 0, 0].tolist() == given.expected


def test_the_page_has_every_kind_of_input() -> None:
    lines = ["| input | how it is read |", "| --- | --- |"]
    for kind, inputs in INPUTS.items():
        lines.append(f"| **{kind}** | |")
        lines += [f"| {given.what} | {given.how} |" for given in inputs]
    table = "\n".join(lines)
    assert f"\n\n{table}\n" in PAGE.read_text(), table
