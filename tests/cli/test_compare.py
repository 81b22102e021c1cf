"""`python -m twinloop compare`, from the command to the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from twinloop.cli import main
from twinloop.comparison.matrix import nested
from twinloop.comparison.parity import BASE, LOOPS, Cell, settings_of

CONFIG = str(Path(__file__).parents[2] / "experiments" / "mlp.yaml")


def options(folder: Path) -> list[str]:
    root = ["--data.source", "digits", "--trainer.default_root_dir", str(folder)]
    return [*root, "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"]


def compare(folder: Path, *extra: str) -> int:
    return main(["compare", "--config", CONFIG, *options(folder), *extra])


def change_a_weight(path: Path) -> None:
    checkpoint = torch.load(path)
    weight = checkpoint["state_dict"]["network.layers.1.bias"]
    weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
    torch.save(checkpoint, path)


@pytest.mark.slow
def test_a_comparison_is_made_resumed_and_fails_where_a_bit_differs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--seeds", "2") == 0
    folder = tmp_path / "lightning_logs" / "mlp" / "compare_0"
    printed = capfd.readouterr().out
    assert "seed 42: identical: 6 steps, every loss, 3,760 weights, optimiser state" in printed
    assert "seed 43: identical: 6 steps, 3,760 weights" in printed
    assert "lines of the loop's code" in printed

    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["identical"] is True
    assert comparison["command"].startswith("python -m twinloop compare --config ")
    for name, cost in comparison["costs"].items():
        assert cost.keys() == set(LOOPS), name
        assert all(value > 0 for values in cost.values() for value in values), name
    lines = comparison["costs"]["lines of the loop's code in two steps"]
    assert lines["homemade"][0] < 200 < lines["lightning"][0]

    page = (folder / "comparison.html").read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png)', page)
    for part in ("on_before_optimizer_step", "train before_step", "identical: 6 steps"):
        assert part in page

    # What is finished is kept, what is not is trained again, and only that.
    first = folder / "lightning-42" / "results.json"
    written = first.stat().st_mtime_ns
    (folder / "homemade-42" / "results.json").unlink()
    assert compare(tmp_path, "--seeds", "2", "--resume") == 0
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == ["compare_0"]

    # One bit of one weight is enough.
    capfd.readouterr()
    change_a_weight(folder / "homemade-43" / "checkpoints" / "last.ckpt")
    assert compare(tmp_path, "--seeds", "2", "--resume") == 1
    printed = capfd.readouterr().out
    assert "seed 43: DIFFERENT in 1 places, first state_dict: /network.layers.1.bias" in printed
    assert "1 units in the last place" in printed
    assert json.loads((folder / "comparison.json").read_text())["identical"] is False


CELLS: dict[str, Cell] = {
    "mixed": {
        "model": "batch norm, dropout, label smoothing",
        "schedule": "OneCycle, by step",
        "precision": "bf16-mixed",
        "accumulation": "4",
        "clipping": "by norm",
        "data": "shifted, flipped",
        "loop": "val inside an epoch",
        "averaging": "EMA of weights",
    },
    "double": {
        "model": "bottleneck autoencoder",
        "optimiser": "RMSprop",
        "schedule": "plateau on val/loss",
        "precision": "64-true",
        "clipping": "by value",
        "data": "resized",
        "early stopping": "of val in every pass",
    },
    "steps": {"loop": "max_steps inside an epoch", "data": "erased"},
    "without val": {"loop": "empty val"},
}
"""Values of every axis of the matrix, several at once since a comparison takes many processes."""


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_runs_of_each_axis_are_identical(
    cell: Cell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(BASE | cell, {"trainer.default_root_dir": str(tmp_path)})
    del settings["record"]
    config = tmp_path / "cell.yaml"
    config.write_text(yaml.safe_dump(nested(settings)))
    assert main(["compare", "--config", str(config)]) == 0
    assert "seed 1: identical: " in capfd.readouterr().out


@pytest.mark.slow
def test_runs_that_leave_nothing_are_not_compared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--trainer.fast_dev_run", "1") == 2
    assert capfd.readouterr().err.startswith("error: a run with trainer.fast_dev_run writes")


def test_runs_of_other_times_are_compared_by_their_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for loop in LOOPS:
        assert main(["fit", "--config", CONFIG, *options(tmp_path), "--loop", loop]) == 0
    runs = tmp_path / "lightning_logs" / "mlp"
    against = runs / "version_0-digits" / "checkpoints" / "last.ckpt"
    assert compare(tmp_path, "--against", str(against)) == 0
    assert "identical: weights, optimiser state and schedule" in capsys.readouterr().out
    change_a_weight(against)
    assert compare(tmp_path, "--against", str(against)) == 1
    assert "DIFFERENT in 1 places" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--resume"], "resume: there is no comparison in"),
        (["--against", "nothing.ckpt"], "has no run of 'mlp'"),
        (["--config", "nowhere.yaml"], "config: there is no file nowhere.yaml"),
        (["--seeds", "0"], "--seeds is 0; it must be from 1 to 1,000"),
        (["--seeds", "-2"], "--seeds is -2; it must be from 1 to 1,000"),
        (["--seeds", "1000000000000"], "--seeds is 1,000,000,000,000; it must be from 1 to 1,000"),
        (["--seeds", "two"], "argument --seeds: invalid int value: 'two'"),
    ],
)
def test_a_mistake_ends_in_one_line(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, *extra) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert message in error


def test_a_file_in_place_of_the_logs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lightning_logs").write_text("no folder")
    assert compare(tmp_path) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot make the run folder [^\n]+: Not a directory\n", error), (
        error
    )


@pytest.mark.parametrize(
    ("first", "seeds", "message"),
    [
        (2**32, "1", "seed_everything is 4294967296; a comparison needs an integer from 0 to"),
        (2**32 - 2, "3", "--seeds is 3; it must be from 1 to 2"),
        ("true", "1", "seed_everything is True; a comparison needs an integer from 0 to"),
    ],
)
def test_seeds_that_cannot_be_are_told(
    first: int | str,
    seeds: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "mlp.yaml"
    text = Path(CONFIG).read_text()
    config.write_text(text.replace("seed_everything: 42", f"seed_everything: {first}"))
    assert main(["compare", "--config", str(config), *options(tmp_path), "--seeds", seeds]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error), error
    assert message in error


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_what_is_finished_stays(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--data.batch_size", "0") == 2
    error: Any = capfd.readouterr().err.splitlines()
    assert "data.batch_size is 0" in error[0]
    assert "the lightning run of seed 42 ended with status 2" in error[1]
    assert "resume with --resume" in error[1]
