"""Array files are written, filtered and hashed in pieces as they would be whole."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from twinloop.data import arrays

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 3, 5, 4), dtype=np.uint8)
KEEP = np.array([True, False, True, True, True, False, False, True, False])


@pytest.mark.parametrize("piece", [1, 150, 1 << 24])
def test_kept_rows_are_those_of_the_array(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PIECE", piece)
    np.save(tmp_path / "all.npy", PIXELS)
    arrays.write_kept(tmp_path / "all.npy", KEEP, tmp_path / "kept")
    np.testing.assert_array_equal(np.load(tmp_path / "kept"), PIXELS[KEEP])
    np.save(tmp_path / "kept.npy", PIXELS[KEEP])
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "kept.npy").read_bytes()


@pytest.mark.parametrize("piece", [7, 1 << 24])
def test_the_hash_is_that_of_name_shape_and_values(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PIECE", piece)
    np.save(tmp_path / "train-images.npy", PIXELS)
    digest = hashlib.sha256()
    arrays.add_to_hash(digest, tmp_path / "train-images.npy")
    expected = hashlib.sha256(b"train-images(9, 3, 5, 4)" + PIXELS.tobytes())
    assert digest.hexdigest() == expected.hexdigest()


def test_a_new_array_is_another_file_for_those_that_write_to_the_old_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    old = np.load(tmp_path / "a.npy", mmap_mode="r+")
    arrays.allocate(tmp_path / "a.npy", (2, 1, 5, 4))
    old[:] = 7
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.zeros((2, 1, 5, 4)))
