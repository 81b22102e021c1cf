"""A journal keeps what is done, whatever was cut off at its end."""

from pathlib import Path

import pytest

from twinloop.data.decode import Decoded
from twinloop.data.journal import Journal, read_lines

PLAN = {"shape": [1, 5, 4]}
ONE = Decoded(2, ["train row 0"], [("train", 1, "train row 1: cannot be decoded (é)")])


def begun(path: Path) -> Journal:
    """A journal with one task."""
    journal = Journal(path, PLAN)
    assert journal.is_new
    journal.begin()
    journal.note(("train", 0), ONE)
    return journal


def test_what_is_noted_is_there_for_the_next_process(tmp_path: Path) -> None:
    begun(tmp_path / "journal")
    again = Journal(tmp_path / "journal", PLAN)
    assert (again.is_new, again.tasks, again.done) == (False, {("train", 0)}, ONE)


def test_another_plan_is_new(tmp_path: Path) -> None:
    begun(tmp_path / "journal")
    other = Journal(tmp_path / "journal", {"shape": [3, 5, 4]})
    assert (other.is_new, other.tasks, other.done) == (True, set(), Decoded())


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_that_was_cut_off_is_not_there_and_does_no_harm_to_the_next(
    cut: int, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    begun(path).note(("test", 0), Decoded(7))
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path, PLAN)
    assert again.tasks == {("train", 0)}
    again.note(("test", 7), Decoded(3))
    assert Journal(path, PLAN).tasks == {("train", 0), ("test", 7)}


def test_no_file_and_a_damaged_one_have_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "journal") == ([], 0)
    (tmp_path / "journal").write_bytes(b"\0\xff\n")
    assert read_lines(tmp_path / "journal") == ([], 0)
