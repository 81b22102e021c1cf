"""A folder of image files: which are train, val and test, and what class each image is of."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from unicodedata import normalize

from twinloop.data.parts import SPLITS
from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_COMMON = ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .gif .webp .tif .tiff .avif .avifs"
_RARE = ".heic .heif .hif .jp2 .j2k .ppm .pgm .pbm .pnm .tga .ico"
SUFFIXES = frozenset(_COMMON.split() + _RARE.split())
"""What Pillow reads, in small letters, and HEIF, which is then listed as unreadable."""
F = TypeVar("F", str, Path)
MASKS = {"masks", "mask", "labels", "annotations", "ground_truth"}
"""Folders of what belongs to the images of a folder `images`."""
TABLES = (".csv", ".tsv", ".jsonl", ".json")
_TEXTS = ".txt .md .rst .pdf .html .xml .yaml .yml .toml .py .ipynb .db .ini .log"
BESIDE = frozenset([*TABLES, *_TEXTS.split()])
"""Suffixes of files that usually stand beside images."""
SYSTEM = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "Icon\r")
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")
NO_CLASS = {"unknown", "unlabelled", "unlabeled", "images", *SPLITS}
"""Names of a folder that holds all images of test, whose classes are not known."""


def files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file below `folder` in the order of names; links are followed.

    Hidden files, and what macOS, Windows and network drives leave beside images, are left out.
    `above` are the real paths of the folders that the walk came from.

    Raises:
        OSError: a folder that cannot be read.
    """
    place = os.path.realpath(folder)
    if place in above:
        return  # a link to a folder above it
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if _is_left_over(entry.name):
            continue
        if entry.is_dir():
            yield from files_below(Path(entry.path), above | {place})
        elif entry.is_file() or entry.is_symlink():  # also a link to nothing, to be told of
            yield Path(entry.path)


def images_of(files: Iterable[Path]) -> list[Path]:
    """The image files among `files`, by their suffixes."""
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def split_folders(root: Path, images: list[Path]) -> dict[str, Path]:
    """The folder of each split: `train` beside `val` or `test`, whatever their case; else `root`.

    Where all `images` below `root` are in one folder, as archives unpack to, it stands for `root`.

    Raises:
        UserError: two folders are the same split.
    """
    named: dict[str, Path] = {}
    for path in _folders(root):
        split = SPLITS.get(path.name.lower())
        if split in named:
            raise UserError(
                f"data.source: {named[split].name} and {path.name} in {root} are both the split "
                f"{split!r}; rename or join them"
            )
        if split:
            named[split] = path
    if "train" in named and len(named) > 1:
        return named
    used = _names(root, images)
    if len(used) == 1 and (root / min(used)).is_dir():
        return split_folders(root / min(used), images)
    return {"train": root}


def _folders(root: Path) -> list[Path]:
    found = [path for path in root.iterdir() if not _is_left_over(path.name)]
    return sorted(path for path in found if path.is_dir())


def _empty_folders(place: Path, files: Iterable[Path]) -> list[Path]:
    used = _names(place, files)
    return [path for path in _folders(place) if path.name not in used]


def _names(root: Path, files: Iterable[Path]) -> set[str]:
    """The files and folders in `root` that `files` are, or are in."""
    start = len(os.path.join(root, ""))  # noqa: PTH118 - a Path has no slash at its end
    return {str(path)[start:].partition(os.sep)[0] for path in inside(root, files)}


def _is_left_over(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def read_image_folder(root: Path, files: list[Path]) -> "tuple[DatasetDict, list[str]]":
    """Read `files` below `root` as a data set with the columns `image` and, if any, `label`.

    The class of an image is the folder that it is in, below that of its split; where all images
    of train lie in one folder, or some in more folders than others, they have no label. A test
    image without a folder has label -1, and so have all in a single folder such as `unknown`.

    Returns:
        The splits, and what a user should know of them.

    Raises:
        UserError: a class that only val or test has, or folders that are no classes.
    """
    import datasets

    every = images_of(files)
    places = split_folders(root, every)
    images = {split: inside(place, every) for split, place in places.items()}
    notes = [note for split in images if (note := _uneven(images[split], places[split]))]
    classes = {
        split: [""] * len(images[split]) if notes else _classes(images[split], place)
        for split, place in places.items()
    }
    names = _names_of(classes)
    result = datasets.DatasetDict()
    for split, paths in images.items():
        result[split] = _data_set(paths, classes[split], names)
    empty = [path for place in places.values() if names for path in _empty_folders(place, files)]
    if empty:
        example = empty[0].relative_to(root)
        notes.append(f"{len(empty):,} folders of {root} are empty, {example} for example")
    notes += left_out(root, files, {str(path) for paths in images.values() for path in paths})
    tables = [path.name for path in files if path.suffix.lower() in TABLES]
    if tables:
        notes.append(
            f"{tables[0]} is not read; a table of labels has to be called metadata.csv and to "
            "have a column file_name"
        )
    return result, notes


def inside(folder: Path, files: Iterable[F]) -> list[F]:
    """Those of `files` that are below `folder`."""
    start = os.path.join(folder, "")  # noqa: PTH118 - a Path has no slash at its end
    return [path for path in files if str(path).startswith(start)]


def _uneven(images: list[Path], place: Path) -> str | None:
    """A line on images of which some are in more folders below `place` than others."""
    depths = {len(path.parts): path for path in images}
    if len(depths) < 2:
        return None
    one, *_, other = (depths[depth].relative_to(place) for depth in sorted(depths))
    return (
        f"no labels: images lie at different depths, {one} in {len(one.parts) - 1} and {other} in "
        f"{len(other.parts) - 1} folders below {place}; for labels there has to be one folder for "
        "each class, at the same level"
    )


def _classes(images: list[Path], place: Path) -> list[str]:
    """The folder of each image below `place`, as `a/b`; an empty one where it is in none."""
    folders = [os.path.dirname(path) for path in map(str, images)]  # noqa: PTH120 - many
    names = {}
    for folder in set(folders):
        name = Path(folder).relative_to(place).as_posix()
        # macOS decomposes accents, and so do archives from it.
        names[folder] = normalize("NFC", name) if name != "." else ""
    _check_classes(set(names.values()), place)
    return [names[folder] for folder in folders]


def _names_of(classes: dict[str, list[str]]) -> list[str]:
    """The classes of train; none where there is only one.

    Raises:
        UserError: a class that only val or test has.
    """
    names = sorted({name for name in classes["train"] if name})
    if len(names) < 2:
        return []
    for split, found in classes.items():
        new = sorted({name for name in found if name} - set(names))
        if split == "test" and {*found} == {*new} and {name.lower() for name in new} <= NO_CLASS:
            continue
        if new:
            raise UserError(
                f"data.source: {split} has the class {new[0]!r}, which train has not; its "
                f"classes are {', '.join(names[:10])}"
            )
    return names


def _check_classes(names: set[str], place: Path) -> None:
    """Refuse folders that are no classes.

    Raises:
        UserError: names that differ in the word of a split only, at some level, or images beside
            their masks.
    """
    for level in zip(*(name.lower().split("/") for name in names if name), strict=True):
        words = [SPLIT_WORD.search(name) for name in level]
        rests = {SPLIT_WORD.sub("", name) for name in level}
        if len(rests) == 1 and len({SPLITS[word[0]] for word in words if word}) > 1:
            raise UserError(
                f"data.source: {min(names)} and {max(names)} in {place} have splits where classes "
                "are expected; call the folders of splits train, val and test, and put those of "
                "classes inside of them"
            )
    beside = {name.lower() for name in names} & MASKS
    if beside and "images" in {name.lower() for name in names}:
        raise UserError(
            f"data.source: {place} has the folders images and {min(beside)}, which are no classes; "
            "pass the folder of images alone"
        )


def _data_set(paths: list[Path], classes: list[str], names: list[str]) -> "Dataset":
    import datasets

    columns: dict[str, list[str] | list[int]] = {"image": [str(path) for path in paths]}
    features = datasets.Features(image=datasets.Image(decode=False))
    if names:
        numbers = {name: number for number, name in enumerate(names)}
        columns["label"] = [numbers.get(name, -1) for name in classes]
        features["label"] = datasets.ClassLabel(names=names)
    return datasets.Dataset.from_dict(columns, features=features)


def left_out(root: Path, files: list[Path], read: set[str]) -> list[str]:
    """Lines on the images among `files` below `root` that were not `read`, and on other files."""
    images = [path for path in images_of(files) if str(path) not in read]
    others = [path for path in files if _may_be_image(path)]
    notes = []
    if images:
        example = images[0].relative_to(root)
        notes.append(
            f"{len(images):,} image files of {root} are in no split, {example} for example"
        )
    if others:
        example = others[0].relative_to(root)
        notes.append(
            f"{len(others):,} files of {root} are not read, {example} for example; images are "
            "known by suffixes such as .png"
        )
    return notes


def _may_be_image(path: Path) -> bool:
    """Whether a file is of no kind that is read, and none that usually stands beside images."""
    if not path.suffix:
        return not path.name.isupper()  # README, LICENSE
    return path.suffix.lower() not in SUFFIXES | BESIDE
