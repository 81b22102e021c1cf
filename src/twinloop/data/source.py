"""Where images come from: the Hub, a folder in Hub layout, class folders, or digits."""

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinloop.data.folder import files_below, images_of, left_out, read_image_folder
from twinloop.data.hub import download
from twinloop.data.metadata import NAMES, read_listed
from twinloop.errors import UserError
from twinloop.files import expanded

if TYPE_CHECKING:
    from datasets import DatasetDict

ARCHIVES = (".zip", ".7z", ".rar", ".tgz")
for _name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    if not os.environ.get(_name):  # an empty one would be the current folder
        os.environ.pop(_name, None)

FASHION_MNIST = "zalando-datasets/fashion_mnist"


@dataclass(frozen=True)
class Source:
    """A data set that was found, not yet read. `key` changes whenever its files change.

    `read` gives its splits, and lines that a user should know of them.
    """

    name: str
    key: str
    read: Callable[[], tuple["DatasetDict", list[str]]]


def find_source(source: str, revision: str | None = None, config: str | None = None) -> Source:
    """Find a data set by folder, by Hub id, or as `digits`.

    Raises:
        UserError: no such folder, or a Hub id that neither the Hub nor its cache has.
    """
    if source == "digits":
        return _digits()
    # An empty name would be the current folder.
    folder = expanded(source).absolute()
    if source and folder.is_dir():
        return _folder(folder, folder.resolve().name, config)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(
            f"data.source: there is no folder {source!r}; "
            "pass a folder, a Hub id (owner/name) or 'digits'"
        )
    return _folder(download(source, revision), source.rpartition("/")[2], config)


def source_for_make() -> str:
    """Name Fashion-MNIST where the Hub or its cache has it, and `digits` where neither does."""
    try:
        download(FASHION_MNIST, revision=None)
    except UserError:
        return "digits"
    return FASHION_MNIST


def _folder(folder: Path, name: str, config: str | None) -> Source:
    """A folder of parquet, Arrow or CSV files, or of image files; its files are listed once."""
    key = hashlib.sha256(f"{config}\0".encode())
    files, start = [], len(str(folder))  # relative_to would take seconds for many files
    try:
        for path in files_below(folder):
            try:
                stat = path.stat()
            except OSError:  # a link to nothing
                stat = path.lstat()
            # An archive may give its files times of its own, but not that of their last change.
            state = f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
            key.update(f"{str(path)[start:]}\0{state}\0".encode())
            files.append(path)
    except UnicodeEncodeError as error:
        raw = os.fsencode(path.relative_to(folder))
        raise UserError(f"data.source: the name {raw!r} is not in UTF-8; rename it") from error
    except OSError as error:
        raise UserError(f"data.source: cannot read {error.filename}: {error.strerror}") from error
    return Source(name, key.hexdigest(), lambda: _read(folder, files, config))


def _read(folder: Path, files: list[Path], config: str | None) -> tuple["DatasetDict", list[str]]:
    """Read a folder by ourselves where it has nothing but images, else by `datasets`."""
    images = images_of(files)
    tables = any(path.suffix.lower() in (".parquet", ".arrow") for path in files)
    listed = any(path.name in NAMES for path in files)
    archives = [path.name for path in files if path.suffix.lower() in ARCHIVES]
    readme = folder / "README.md"
    described = readme.is_file() and "\nconfigs:" in readme.read_text(errors="replace")
    if images and not (tables or listed or described or config):
        return read_image_folder(folder, files)
    if images and listed and not (tables or described or config):
        splits = read_listed(folder, files)
        return splits, left_out(folder, files, _paths(splits))
    if archives and not (images or tables or described):
        raise UserError(f"data.source: {folder} has {archives[0]} and no images; unpack it")
    if glob.has_magic(str(folder)):
        raise UserError(
            f"data.source: {folder} has one of * ? [ in it, which the library that "
            "reads it takes for a pattern of several names; rename the folder"
        )
    splits = _load(folder, str(folder), name=config)
    return splits, left_out(folder, files, _paths(splits)) if images else []


def _load(folder: Path, *args: Any, **options: Any) -> "DatasetDict":
    """What `datasets.load_dataset` makes of `folder`, or why it cannot."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it also raises
    try:
        return datasets.load_dataset(*args, **options)
    except Exception as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())
        cache = datasets.config.HF_CACHE_HOME
        if isinstance(cause, OSError) and str(cause.filename).startswith(str(cache)):
            raise UserError(
                f"HF_HOME: cannot write to {cache}: {cause.strerror}; set it to another folder"
            ) from error
        if "Config name is missing" in reason:
            reason += "; set data.name"
        raise UserError(f"data.source: cannot read {folder}: {reason}") from error


def _paths(splits: "DatasetDict") -> set[str]:
    """The files that the images of a data set come from, as far as it says so."""
    import datasets

    found = set()
    for split in splits.values():
        for name, kind in split.features.items():
            if isinstance(kind, datasets.Image):
                encoded = split.select_columns([name])
                encoded = encoded.cast_column(name, datasets.Image(decode=False))
                found |= {row["path"] for row in encoded[name] if row and row["path"]}
    return found


def _digits() -> Source:
    """The 1,797 handwritten digits that scikit-learn carries: 8x8, grey, ten classes."""

    def read() -> tuple["DatasetDict", list[str]]:
        import datasets
        import numpy as np
        from sklearn.datasets import load_digits

        digits = load_digits()
        # scikit-learn counts pixels in steps of 1/16
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=[str(d) for d in range(10)])
        )
        rows = datasets.Dataset.from_dict(
            {"image": list(pixels), "label": digits.target.tolist()}, features=features
        )
        return datasets.DatasetDict(train=rows), []

    return Source("digits", "digits", read)


def cache_folder(cache_dir: str | Path | None) -> Path:
    """The folder of decoded data sets: the argument, `$TWINLOOP_CACHE`, or `~/.cache/twinloop`."""
    named = cache_dir or os.environ.get("TWINLOOP_CACHE") or "~/.cache/twinloop"
    return expanded(named)
