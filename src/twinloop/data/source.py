"""Where images come from: the Hub, a folder in Hub layout, class folders, or digits."""

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
"""How long the Hub may take to answer before its cache is asked."""


@dataclass(frozen=True)
class Source:
    """A data set that was found, not yet read. `key` changes whenever its files change."""

    name: str
    key: str
    read: Callable[[], "DatasetDict"]


def find_source(source: str, revision: str | None = None) -> Source:
    """Find a data set by folder, by Hub id, or as `digits`.

    Raises:
        UserError: no such folder, or a Hub id that neither the Hub nor its cache has.
    """
    if source == "digits":
        return _digits()
    # An empty name would be the current folder.
    if source and Path(source).expanduser().is_dir():
        return _folder(Path(source).expanduser(), name=Path(source).expanduser().resolve().name)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(
            f"data.source: there is no folder {source!r}; "
            "pass a folder, a Hub id (owner/name) or 'digits'"
        )
    return _folder(_hub_folder(source, revision), name=source.rpartition("/")[2])


def source_for_make() -> str:
    """Name Fashion-MNIST where the Hub or its cache has it, and `digits` where neither does."""
    try:
        _hub_folder(FASHION_MNIST, revision=None)
    except UserError:
        return "digits"
    return FASHION_MNIST


def _folder(folder: Path, name: str) -> Source:
    """A folder of parquet, Arrow or CSV files, or of images in one folder for each class."""
    if glob.has_magic(str(folder.absolute())):
        raise UserError(
            f"data.source: {folder.absolute()} has one of * ? [ in it, which the library that "
            "reads it takes for a pattern of several names; rename the folder"
        )
    key = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stat = path.stat()
            name_and_state = f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
            key.update(name_and_state.encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"data.source: cannot read {error.filename}: {error.strerror}") from error

    def read() -> "DatasetDict":
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it also raises
        try:
            return datasets.load_dataset(str(folder))
        except Exception as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split())
            raise UserError(f"data.source: cannot read {folder}: {reason}") from error

    return Source(name, key.hexdigest(), read)


def _hub_folder(repository: str, revision: str | None) -> Path:
    """Download a data set's files, or find them in the Hub's cache where the Hub is silent."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    answer: list[str | Exception] = []

    def ask() -> None:
        try:
            api = HfApi(library_name="twinloop")
            info = api.dataset_info(repository, revision=revision, timeout=HUB_SECONDS)
            answer.append(str(info.sha))
        except Exception as error:  # handed to the thread that waits
            answer.append(error)

    # A name server that never answers is bound by no time-out of the client's.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    reply = answer[0] if answer else TimeoutError(f"no answer in {HUB_SECONDS:.0f} s")
    if isinstance(reply, HfHubHTTPError) and not isinstance(reply, OfflineModeIsEnabled):
        status = reply.response.status_code
        if status in (401, 403, 404):
            raise UserError(
                f"data.source: the Hub has no public data set {repository!r} "
                f"(revision {revision or 'main'}); check the name"
            ) from reply
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=reply if isinstance(reply, str) else revision,
            local_files_only=not isinstance(reply, str),
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"data.source: the Hub does not answer and its cache has no whole {repository!r}; "
            "pass --data.source FOLDER (with make: DATA=FOLDER), or --data.source digits "
            "to try things out with no network"
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"data.source: {repository!r} is neither a folder nor a Hub id (owner/name)"
        ) from error
    except Exception as error:  # whatever a broken connection raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.source: the download of {repository!r} broke off: {reason}; "
            "try again: what has arrived is kept; or pass --data.source FOLDER"
        ) from error
    return Path(folder)


def _digits() -> Source:
    """The 1,797 handwritten digits that scikit-learn carries: 8x8, grey, ten classes."""

    def read() -> "DatasetDict":
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
        return datasets.DatasetDict(train=rows)

    return Source("digits", "digits", read)


def cache_folder(cache_dir: Path | None) -> Path:
    """The folder of decoded data sets: the argument, `$TWINLOOP_CACHE`, or `~/.cache/twinloop`."""
    return cache_dir or Path(os.environ.get("TWINLOOP_CACHE", "~/.cache/twinloop")).expanduser()
