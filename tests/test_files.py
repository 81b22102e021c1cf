"""A file under its final name is the old one or the new one, and whole."""

import json
import math
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from twinloop.errors import UserError
from twinloop.files import as_json, atomic_write, expanded, save_whole


def test_home_and_variables_are_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PETS", "cats")
    monkeypatch.setenv("EMPTY", "")
    assert expanded("~/$PETS/${PETS}") == Path("/home/me/cats/cats")
    for path in ("$EMPTY/cats", "${MISSING}"):
        name = path.strip("${}").partition("/")[0]
        with pytest.raises(UserError, match=f"^{re.escape(path)}: the variable {name} is not set$"):
            expanded(path)
    with pytest.raises(UserError, match=r"^~nobody-here/cats: there is no such home folder$"):
        expanded("~nobody-here/cats")
    Path("$MISSING").mkdir()  # a folder may be called that
    assert expanded("$MISSING") == Path("$MISSING")


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_a_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flushed = tmp_path / "file", []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(
        os, "fsync", lambda number: flushed.append((os.fstat(number).st_ino, path.exists()))
    )
    with atomic_write(path) as part:
        part.write_text("whole")
    folder = [(tmp_path.stat().st_ino, True)] if platform == "linux" else []
    assert flushed == [(path.stat().st_ino, False), *folder]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("disk full")])
@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_an_error_while_writing_keeps_the_old_file(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise error

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    if failing == "rename":
        monkeypatch.setattr(Path, "replace", fail)

    def write() -> None:
        with atomic_write(path) as part:
            part.write_text("new")
            if failing == "write":
                fail()

    with pytest.raises(type(error), match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_inside_torch_save_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_whole({"old": 1}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # With the signal ignored, as Python has it, a write beyond the limit fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_whole({str(n): torch.rand(500) for n in range(200)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_null_for_nan_and_infinity() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = {"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf}, "d": None, "e": "NaN"}
    text = as_json(value)
    assert json.loads(text, parse_constant=refuse) == {
        **{"a": [1.5, None, [None, 2]], "b": {"c": None}},
        **{"d": None, "e": "NaN"},
    }
    assert text.endswith("}\n")
