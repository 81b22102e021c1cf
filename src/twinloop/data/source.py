"""Find a data set: on the Hub, in a folder in Hub layout, in class folders, or digits."""

import glob
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twinloop.errors import UserError

if TYPE_CHECKING:
    from datasets import DatasetDict

FASHION_MNIST = "zalando-datasets/fashion_mnist"
HUB_SECONDS = 3.0
"""How long to wait for the Hub before its local cache is used."""


@dataclass(frozen=True)
class Source:
    """A data set that was found but not read. `key` changes whenever its files change."""

    name: str
    key: str
    read: Callable[[], "DatasetDict"]


def find_source(source: str, revision: str | None = None) -> Source:
    """Find a data set by folder, by Hub id, or as `digits`.

    Raises:
        UserError: no such folder, or a Hub id that is neither on the Hub nor in its cache.
    """
    if source == "digits":
        return Source("digits", "digits", _read_digits)
    folder = Path(source).expanduser()
    if source and folder.is_dir():  # Path("") is the current folder
        return _folder(folder, name=folder.resolve().name)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(
            f"data.source: there is no folder {source!r}; "
            "pass a folder, a Hub id (owner/name) or 'digits'"
        )
    return _folder(_download(source, revision), name=source.rpartition("/")[2])


def source_for_make() -> str:
    """Return the Hub id of Fashion-MNIST, or `digits` if neither the Hub nor its cache has it."""
    try:
        _download(FASHION_MNIST, revision=None)
    except UserError:
        return "digits"
    return FASHION_MNIST


def cache_folder(cache_dir: Path | None) -> Path:
    """The folder of decoded data sets: the argument, `$TWINLOOP_CACHE`, or `~/.cache/twinloop`."""
    return cache_dir or Path(os.environ.get("TWINLOOP_CACHE", "~/.cache/twinloop")).expanduser()


def _folder(folder: Path, name: str) -> Source:
    """A folder of parquet, Arrow or CSV files, or of images in one folder per class."""
    if glob.has_magic(str(folder.absolute())):
        raise UserError(
            f"data.source: {folder.absolute()} has one of * ? [ in it, which `datasets` expands "
            "as a pattern; rename the folder"
        )
    key = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stat = path.stat()
            state = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
            key.update(state.encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"data.source: cannot read {error.filename}: {error.strerror}") from error

    def read() -> "DatasetDict":
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it also raises
        try:
            return datasets.load_dataset(str(folder))
        except Exception as error:
            reason = _one_line(error.__cause__ or error)
            raise UserError(f"data.source: cannot read {folder}: {reason}") from error

    return Source(name, key.hexdigest(), read)


def _download(repository: str, revision: str | None) -> Path:
    """Download a data set, or find it in the Hub's cache if the Hub does not respond."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    commit = _commit(repository, revision)
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit or revision,
            local_files_only=commit is None,
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"data.source: the Hub does not respond and its cache has no complete {repository!r}; "
            "pass --data.source FOLDER (with make: DATA=FOLDER), or --data.source digits, "
            "which needs no network"
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"data.source: {repository!r} is neither a folder nor a Hub id (owner/name)"
        ) from error
    except Exception as error:  # a broken connection raises errors of many types
        raise UserError(
            f"data.source: the download of {repository!r} failed: {_one_line(error)}; "
            "try again: completed files are kept; or pass --data.source FOLDER"
        ) from error
    return Path(folder)


def _commit(repository: str, revision: str | None) -> str | None:
    """Ask the Hub for the commit of a revision; None if there is no response in `HUB_SECONDS`.

    Raises:
        UserError: the Hub has no such public data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    replies: list[str | Exception] = []

    def ask() -> None:
        try:
            api = HfApi(library_name="twinloop")
            info = api.dataset_info(repository, revision=revision, timeout=HUB_SECONDS)
            replies.append(str(info.sha))
        except Exception as error:  # handed to the waiting thread
            replies.append(error)

    # In a thread, because the client's time-out does not cover the look-up of the host name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    reply = replies[0] if replies else None
    if isinstance(reply, HfHubHTTPError) and reply.response.status_code in (401, 403, 404):
        raise UserError(
            f"data.source: the Hub has no public data set {repository!r} "
            f"(revision {revision or 'main'}); check the name"
        ) from reply
    return reply if isinstance(reply, str) else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _read_digits() -> "DatasetDict":
    """The 1,797 handwritten digits of scikit-learn: 8x8, grey, ten classes."""
    import datasets
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # from 0 to 16
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(d) for d in range(10)])
    )
    rows = datasets.Dataset.from_dict(
        {"image": list(pixels), "label": digits.target.tolist()}, features=features
    )
    return datasets.DatasetDict(train=rows)
