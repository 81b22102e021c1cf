"""`cache` lists what is decoded, and removes it."""

from pathlib import Path

import pytest
from filelock import FileLock

from twinloop.cli import main
from twinloop.data.datamodule import ImageDataModule


def test_data_sets_are_listed_with_their_size_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--cache_dir", str(tmp_path)]
    assert main(["cache", *options]) == 0
    assert capsys.readouterr().out == f"no decoded data sets in {tmp_path}\n"
    assert len(ImageDataModule("digits", cache_dir=tmp_path).data.train) == 1497
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert main(["cache", *options]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if folder.name in line)
    # 1,797 images of 64 bytes, and their labels of 8
    assert row.replace("│", " ").split() == [folder.name, "1x8x8", "0.1", "0"]
    with FileLock(f"{folder}.lock"):  # as while it is decoded
        assert main(["cache", "--clear", *options]) == 0
    assert capsys.readouterr().out.endswith("removed 0 of 1\n")
    assert main(["cache", "--clear", *options]) == 0
    assert capsys.readouterr().out.endswith("removed 1 of 1\n")
    assert not folder.exists()
