"""Data sets are found in folders, in the Hub's cache and in scikit-learn, without a network."""

import json
import logging
import os
import re
import runpy
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import datasets
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image
from sklearn.datasets import load_digits

from twinloop.data import cache, hub, source
from twinloop.data.source import cache_folder, find_source, source_for_make
from twinloop.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 5), dtype=np.uint8)
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]


def write_class_folders(folder: Path) -> None:
    """Three images of each of two classes to train on, and one each to test."""
    for number, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        split = "test" if number % 4 == 3 else "train"
        path = folder / split / ("cat", "dog")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_hub_layout(folder: Path) -> None:
    """The same images as parquet files, as the Hub keeps them."""
    features = datasets.Features(
        image=datasets.Image(), animal=datasets.ClassLabel(names=["cat", "dog"])
    )
    for split, rows in (("train", [0, 1, 2, 4, 5, 6]), ("test", [3, 7])):
        columns = {"image": list(PIXELS[rows]), "animal": [LABELS[row] for row in rows]}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


WRITERS = {"class folders": write_class_folders, "Hub layout": write_hub_layout}


def test_class_folders_and_hub_layout_are_read_to_the_same_data(tmp_path: Path) -> None:
    fingerprints = set()
    for name, write in WRITERS.items():
        write(tmp_path / name / "pets")
        data = cache.load(find_source(str(tmp_path / name / "pets")), tmp_path / "cache")
        assert data.spec.name == "pets"
        assert data.spec.class_names == ("cat", "dog")
        assert data.spec.image_shape == (1, 6, 5)
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        np.testing.assert_array_equal(data.train.images[:, 0], PIXELS[[0, 1, 2, 4, 5, 6]])
        np.testing.assert_array_equal(data.test.images[:, 0], PIXELS[[3, 7]])
        fingerprints.add(data.spec.fingerprint)
    assert len(fingerprints) == 1


def test_a_folder_has_a_new_key_once_a_file_changes(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    image = tmp_path / "train" / "cat" / "0.png"
    key = find_source(str(tmp_path)).key
    assert find_source(str(tmp_path)).key == key
    os.utime(image, (1, 1))
    touched = find_source(str(tmp_path)).key
    image.unlink()
    removed = find_source(str(tmp_path)).key
    other = image.with_name("1.png")
    before = other.stat()
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an archive does
    replaced = find_source(str(tmp_path)).key
    assert len({key, touched, removed, replaced}) == 4


@pytest.mark.parametrize("name", ["pets*", "pets[1]"])
def test_a_folder_whose_name_would_match_others_is_refused(name: str, tmp_path: Path) -> None:
    write_hub_layout(tmp_path / name)
    write_hub_layout(tmp_path / "pets1")
    message = re.escape(f"data.source: {tmp_path / name} has one of * ? [ in it")
    with pytest.raises(UserError, match=message):
        cache.load(find_source(str(tmp_path / name)), tmp_path / "cache")
    write_class_folders(tmp_path / name / "images")
    (tmp_path / name / "data").rename(tmp_path / "data")
    data = cache.load(find_source(str(tmp_path / name)), tmp_path / "cache")
    assert len(data.train) == 6


def test_a_broken_file_is_one_error_without_log_lines_of_datasets(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    datasets.logging.set_verbosity_warning()
    with pytest.raises(UserError, match="Parquet magic bytes not found"):
        find_source(str(tmp_path)).read()
    # Its handler writes to stderr whatever the root logger does.
    assert not logging.getLogger("datasets.builder").isEnabledFor(logging.ERROR)


def test_a_cache_of_hugging_face_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_layout(tmp_path / "pets")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", "/proc/none")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/proc/none/datasets")
    message = r"HF_HOME: cannot write to /proc/none: .+; set it to another folder"
    with pytest.raises(UserError, match=message):
        cache.load(find_source(str(tmp_path / "pets")), tmp_path / "cache")


def test_an_empty_cache_of_hugging_face_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    runpy.run_path(source.__file__)
    assert "HF_HOME" not in os.environ
    assert os.environ["HF_HUB_CACHE"] == "/hub"


def test_the_files_of_a_folder_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "pets")
    listed: list[Any] = []
    original = os.scandir

    def scandir(path: Any) -> Any:
        listed.append(path)
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    find_source(str(tmp_path / "pets")).read()
    walked = sorted(str(path) for path in listed if str(path).startswith(f"{tmp_path}/pets"))
    classes = [f"{tmp_path}/pets/{s}{c}" for s in ("test", "train") for c in ("", "/cat", "/dog")]
    assert walked == [f"{tmp_path}/pets", *classes]


def test_a_name_that_is_not_in_utf8_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    cats = os.fsencode(tmp_path / "train" / "cat")
    os.rename(cats + b"/0.png", cats + b"/\xff.png")  # noqa: PTH104 - a name in bytes
    message = re.escape(r"the name b'train/cat/\xff.png' is not in UTF-8; rename it")
    with pytest.raises(UserError, match=message):
        find_source(str(tmp_path))


@pytest.mark.parametrize("broken", ["0.png", "1.png"])
def test_an_unreadable_image_file_is_named_even_the_first(broken: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / broken).write_bytes(b"broken")
    with pytest.raises(UserError, match=rf"train row \d: .+/{broken}: not an image"):
        cache.load(find_source(str(tmp_path / "pets")), tmp_path / "cache")


UNREADABLE = {
    "empty": {},
    "no data": {"notes.md": b"no data here"},
    "not parquet": {"train.parquet": b"no parquet"},
}


@pytest.mark.parametrize("files", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_folder_without_a_data_set_is_named(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    with pytest.raises(
        UserError, match=re.escape(f"data.source: cannot read {folder}: ")
    ) as caught:
        cache.load(find_source(str(folder)), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    data = cache.load(find_source("digits"), tmp_path)
    digits = load_digits()
    assert data.spec.image_shape == (1, 8, 8)
    assert data.spec.class_names == tuple("0123456789")
    assert (len(data.train), len(data.test)) == (1_497, 300)
    assert data.test_split == "16.7% of train, held out"
    # Pixels of 0 to 16 become 0 to 255, so that 16 is white.
    values = sorted({round(value * 255 / 16) for value in range(17)})
    assert np.unique(data.train.images).tolist() == values
    both = np.concatenate([data.train.images, data.test.images]).reshape(-1, 64)
    expected = np.rint(digits.data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))


@pytest.mark.parametrize("name", ["", "fashion_mnist", "/nowhere", "~nobody/a", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name: str) -> None:
    message = f"there is no folder {name!r}; pass a folder, a Hub id (owner/name) or 'digits'"
    with pytest.raises(UserError, match=re.escape(message)):
        find_source(name)


@pytest.mark.parametrize("name", ["a b/c", "-a/b", "a/" + "b" * 100])
def test_what_no_hub_id_can_be_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a Hub id \(owner/name\)"):
        find_source(name)


OFFLINE = re.compile(
    r"data\.source: the Hub does not respond and its cache has no complete 'owner/name'; "
    r"set data\.source to a folder [^\n]+"
)


def test_the_hub_offline_says_what_to_pass() -> None:
    with pytest.raises(UserError) as caught:
        find_source("owner/name")
    assert OFFLINE.fullmatch(str(caught.value))


def test_auto_is_digits_within_three_seconds_offline() -> None:
    start = time.perf_counter()
    assert source_for_make() == "digits"
    assert time.perf_counter() - start < 3


def answer(monkeypatch: pytest.MonkeyPatch, reply: Any) -> None:
    """Let the Hub answer a question for a data set's commit with `reply`."""
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", reply)


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.HUB_SECONDS == 3
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.1)
    answer(monkeypatch, lambda *_, **__: time.sleep(5))
    start = time.perf_counter()
    assert source_for_make() == "digits"
    message = r"^data\.source: the Hub does not respond and its cache has no complete 'owner/name'"
    with pytest.raises(UserError, match=message):
        find_source("owner/name")
    assert time.perf_counter() - start < 1


def test_a_name_that_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> NoReturn:
        response: Any = SimpleNamespace(status_code=404, headers={}, request=None)
        raise RepositoryNotFoundError("404", response=response)

    answer(monkeypatch, unknown)
    message = r"no public data set 'owner/name' \(revision v2\); check the name"
    with pytest.raises(UserError, match=message):
        find_source("owner/name", revision="v2")


def test_an_interrupted_download_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise ConnectionError("reset\nby peer")

    answer(monkeypatch, lambda *_, **__: SimpleNamespace(sha="0" * 40))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(UserError, match="download of 'owner/name' failed: reset by peer; try"):
        find_source("owner/name")


def test_a_whole_download_is_used_offline_and_an_incomplete_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "datasets--owner--pets"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    snapshot = repository / "snapshots" / ("1" * 40)
    write_hub_layout(snapshot)
    # What the Hub said was there, which its client keeps.
    names = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.parquet")]
    listing = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
    (repository / "trees").mkdir()
    (repository / "trees" / f"{'1' * 40}.json").write_text(
        json.dumps({"format_version": 1, "files": listing})
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    data = cache.load(find_source("owner/pets"), tmp_path / "cache")
    assert data.spec.name == "pets"
    np.testing.assert_array_equal(data.test.images[:, 0], PIXELS[[3, 7]])
    (snapshot / names[0]).unlink()
    with pytest.raises(UserError, match="its cache has no complete 'owner/pets'; set data"):
        find_source("owner/pets")


def test_the_cache_folder_is_the_argument_the_variable_or_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWINLOOP_CACHE", "/variable")
    assert cache_folder(Path("/argument")) == Path("/argument")
    assert cache_folder(None) == Path("/variable")
    monkeypatch.delenv("TWINLOOP_CACHE")
    assert cache_folder(None) == Path.home() / ".cache" / "twinloop"


def test_one_of_several_configurations_is_read_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for name, label in (("small", "cat"), ("large", "dog")):
        path = folder / name / "train.parquet"
        path.parent.mkdir(parents=True)
        kind = datasets.ClassLabel(names=[label])
        features = datasets.Features(image=datasets.Image(), animal=kind)
        rows = {"image": list(PIXELS), "animal": [0] * len(PIXELS)}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    configs = "".join(
        f"- config_name: {name}\n  data_files: {name}/train.parquet\n"
        for name in ("small", "large")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(UserError, match=r"'small', 'large'.+; set data\.name"):
        cache.load(find_source(str(folder)), tmp_path / "cache")
    found = cache.load(find_source(str(folder), config="large"), tmp_path / "cache")
    assert found.spec.class_names == ("dog",)
