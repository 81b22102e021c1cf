"""Which checkpoints a run keeps, and when."""

from math import inf, nan
from pathlib import Path

import pytest
import torch

from twinloop.errors import UserError
from twinloop.runs.saver import Saver


class Saves:
    """Takes down under which names was saved, by the number of what was looked at."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.seen = 0
        self.found: list[tuple[int, str]] = []

    def _save(self, path: Path) -> None:
        assert path.parent == self.saver.folder / "checkpoints"
        self.found.append((self.seen, path.name))

    def validate(self, value: float, *, ends_epoch: bool) -> None:
        """A validation."""
        self.seen += 1
        metrics = {"val/loss": torch.tensor(value), "val/accuracy": torch.tensor(-value)}
        self.saver.validated(metrics, ends_epoch=ends_epoch, save=self._save)

    def end(self) -> None:
        """The end of an epoch."""
        self.seen += 1
        self.saver.end_epoch(self._save)


def saver(folder: Path, monitor: str | None = "val/loss", mode: str = "min") -> Saver:
    return Saver(folder, monitor, mode, {"loop": "lightning"}, "experiment: mlp\n")


def test_a_best_inside_an_epoch_is_saved_at_once(tmp_path: Path) -> None:
    saves = Saves(saver(tmp_path))
    saves.validate(3.0, ends_epoch=False)
    saves.validate(2.0, ends_epoch=False)
    saves.validate(2.5, ends_epoch=True)
    saves.end()
    assert saves.found == [(1, "best.ckpt"), (2, "best.ckpt"), (4, "last.ckpt")]


def test_a_best_at_the_end_of_an_epoch_is_saved_with_that_epoch(tmp_path: Path) -> None:
    saves = Saves(saver(tmp_path))
    saves.validate(3.0, ends_epoch=True)
    assert saves.found == []
    saves.end()
    assert saves.found == [(2, "best.ckpt"), (2, "last.ckpt")]
    # An epoch that is no better, and one that is not validated, are only the last.
    saves.validate(3.5, ends_epoch=True)
    saves.end()
    saves.end()
    assert saves.found[2:] == [(4, "last.ckpt"), (5, "last.ckpt")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 2, 2, 1], [1, 2, 4]),  # of equals the first
        ([1, 2, 3], [1]),
        ([nan, 2, nan, 1], [2, 4]),
        ([nan, nan], []),
        ([inf, 1, -inf], [1, 2, 3]),
    ],
)
def test_the_best_is_the_first_of_the_least_or_of_the_greatest(
    values: list[float], expected: list[int], tmp_path: Path
) -> None:
    for mode, sign in (("min", 1), ("max", -1)):
        saves = Saves(saver(tmp_path, mode=mode))
        for value in values:
            saves.validate(sign * value, ends_epoch=False)
        assert saves.found == [(number, "best.ckpt") for number in expected]


def test_without_a_monitor_there_is_no_best(tmp_path: Path) -> None:
    saves = Saves(saver(tmp_path, None))
    saves.validate(1.0, ends_epoch=False)
    saves.validate(0.5, ends_epoch=True)
    saves.end()
    assert saves.found == [(3, "last.ckpt")]
    assert saves.saver.state_dict() == {}


def test_a_monitor_that_is_not_measured_is_refused_by_name(tmp_path: Path) -> None:
    saves = Saves(saver(tmp_path, "val/acuracy"))
    message = "the task's monitor is 'val/acuracy'; its metrics are: val/accuracy, val/loss"
    with pytest.raises(UserError, match=message):
        saves.validate(1.0, ends_epoch=False)
    assert saves.found == []


def test_a_resumed_run_keeps_the_best_value_of_its_checkpoint(tmp_path: Path) -> None:
    first, second = Saves(saver(tmp_path)), Saves(saver(tmp_path))
    first.validate(2.0, ends_epoch=False)
    second.saver.load_state_dict(first.saver.state_dict())
    second.validate(2.0, ends_epoch=False)
    second.validate(1.5, ends_epoch=False)
    assert second.found == [(2, "best.ckpt")]


@pytest.mark.parametrize("there", [True, False])
def test_a_run_begins_with_its_config_and_forgets_a_best_without_file(
    there: bool, tmp_path: Path
) -> None:
    resumed = Saves(saver(tmp_path))
    resumed.saver.load_state_dict({"best": torch.tensor(1.0)})
    if there:
        resumed.saver.best_path.parent.mkdir()
        resumed.saver.best_path.touch()
    resumed.saver.begin()
    assert (tmp_path / "config.yaml").read_text() == "experiment: mlp\n"
    resumed.validate(2.0, ends_epoch=False)
    assert resumed.found == ([] if there else [(1, "best.ckpt")])
