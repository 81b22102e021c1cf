"""What a user sees of a run while it goes on."""

import sys

import pytest

from twinloop.progress import Bars, epoch_of


def test_the_first_batch_of_a_pass_begins_its_bar() -> None:
    bars = Bars(draw=False)
    assert bars.tasks == []
    bars.move("train", "epoch 1/5", 3, 215)
    bars.move("val", "epoch 1/5", 1, 20)
    bars.move("train", "epoch 1/5", 4, 215)
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("epoch 1/5 train", 4, 215),
        ("epoch 1/5 val", 1, 20),
    ]


def test_a_bar_is_never_drawn_with_another_total(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float | None] = []
    bars = Bars(draw=False)
    monkeypatch.setattr(bars, "refresh", lambda: drawn.extend(task.total for task in bars.tasks))
    bars.move("train", "epoch 1/5", 1, 215)
    assert drawn
    assert set(drawn) == {215}


def test_a_removed_bar_starts_again_at_zero() -> None:
    bars = Bars(draw=False)
    bars.take_away("train")  # there is none yet
    bars.move("train", "epoch 1", 9, 10)
    bars.take_away("train")
    assert bars.tasks == []
    bars.move("train", "epoch 2", 1, 10)
    assert [(task.description, task.completed) for task in bars.tasks] == [("epoch 2 train", 1)]


def test_the_line_of_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    Bars(draw=False).say("epoch 2/5", 12.34, {"train/loss": 0.5, "val/accuracy": 0.98765})
    line = "epoch 2/5  12.3 s  train/loss 0.5000  val/accuracy 0.9877\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("terminal", [False, True])
def test_bars_are_drawn_in_a_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert Bars().disable is not terminal
    assert Bars(draw=False).disable
    assert not Bars(draw=True).disable


def test_an_epoch_is_counted_from_1() -> None:
    assert epoch_of(0, 5) == "epoch 1/5"
    assert [epoch_of(2, none) for none in (None, -1)] == ["epoch 3", "epoch 3"]
