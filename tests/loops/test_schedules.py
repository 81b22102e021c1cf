"""Schedules and optimisers in runs that are resumed, also by the other loop, or made longer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import commands
from tests.commands import STOPPED, error_line, run_in, saved, stop_at
from tests.learner.learners import assert_equal
from twinloop.comparison.matrix import AXES, Settings, scheduler
from twinloop.comparison.parity import LOOPS, Loop

pytestmark = pytest.mark.usefixtures("quick")
PARTS = ("state_dict", "optimizer_states", "lr_schedulers")


def fit(folder: Path, loop: str, settings: Settings, *options: str) -> int:
    """Train for five epochs of three batches, with the settings of the parity matrix."""
    given = [
        f"--{key.replace('.init_args', '')}={json.dumps(value)}" for key, value in settings.items()
    ]
    return commands.fit(folder, "--trainer.max_epochs=5", f"--loop={loop}", *given, *options)


def ended(folder: Path) -> dict[str, Any]:
    """What the last checkpoint has of weights, optimiser and schedule."""
    checkpoint = saved(run_in(folder))
    return {name: checkpoint[name] for name in PARTS}


RESUMED: dict[str, tuple[str, Loop, Loop, int]] = {
    "LinearLR then CosineAnnealingLR, every 2 steps": ("schedule", "lightning", "homemade", 2),
    "ReduceLROnPlateau on train/loss, every 2 epochs": ("schedule", "homemade", "lightning", 3),
    "OneCycle of Adagrad": ("schedule", "homemade", "homemade", 1),
    "Muon, AdamW for the rest": ("optimiser", "homemade", "lightning", 2),
    "no decay on norms and biases": ("optimiser", "lightning", "homemade", 3),
}
"""Values of the matrix by axis, the loop that is stopped in a batch, and the one that resumes."""


@pytest.mark.slow
@pytest.mark.parametrize("value", RESUMED, ids=lambda value: value.replace(" ", "-"))
def test_either_loop_goes_on_with_a_schedule_or_an_optimiser(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axis, first, second, batch = RESUMED[value]
    settings = AXES[axis][value]
    assert fit(tmp_path / "whole", second, settings) == 0
    with monkeypatch.context() as patch:
        stop_at(3, batch, patch)
        assert fit(tmp_path / "parts", first, settings) == STOPPED
    assert fit(tmp_path / "parts", second, settings, "--ckpt_path=last") == 0
    whole = ended(tmp_path / "whole")
    assert_equal(ended(tmp_path / "parts"), whole)
    assert whole["lr_schedulers"] or axis == "optimiser"


PAGE = (Path(__file__).parents[2] / "docs" / "optimisers.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_blocks() -> None:
    assert [next(iter(yaml.safe_load(block))) for block in BLOCKS] == [
        *["schedule"] * 3,
        "optimizer",
    ]


CONVOLUTIONS = {
    "class_path": "twinloop.models.SequentialClassifier",
    "init_args": {"widths": [4, 8], "dropout": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_yaml_of_the_page_trains_alike_in_both_loops(block: str, tmp_path: Path) -> None:
    settings = {f"model.{key}": value for key, value in yaml.safe_load(block).items()}
    settings["model.network"] = CONVOLUTIONS  # the page has a group of their weights
    for loop in LOOPS:
        assert fit(tmp_path / loop, loop, settings) == 0
    one, other = (ended(tmp_path / loop) for loop in LOOPS)
    assert_equal(one, other)


HALVE = {"model.schedule": scheduler("StepLR", step_size=2, gamma=0.5)}


@pytest.mark.slow
def test_a_stop_in_a_validation_counts_the_schedulers_step_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"model.schedule": scheduler("StepLR", step_size=1)}
    for loop in LOOPS:
        with monkeypatch.context() as patch:
            stop_at(1, 3, patch)
            assert fit(tmp_path / loop, loop, every) == STOPPED
        loops = saved(run_in(tmp_path / loop))["loops"]["fit_loop"]
        counts = loops["epoch_loop.scheduler_progress"]
        assert [counts[part]["completed"] for part in ("total", "current")] == [2, 1], loop


@pytest.mark.slow
def test_a_run_of_a_schedule_by_numbers_is_made_longer(tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", "lightning", HALVE) == 0
    for loop, epochs in zip((*LOOPS, LOOPS[1]), (2, 3, 5), strict=True):
        resume = [f"--trainer.max_epochs={epochs}"] + ["--ckpt_path=last"] * (epochs > 2)
        assert fit(tmp_path / "parts", loop, HALVE, *resume) == 0
    assert_equal(ended(tmp_path / "parts"), ended(tmp_path / "whole"))


@pytest.mark.slow
def test_a_run_of_a_planned_schedule_goes_on_from_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cycle = {"model.schedule": {"class_path": "twinloop.tasks.OneCycle"}}
    assert fit(tmp_path / "first", "homemade", cycle, "--trainer.max_epochs=2") == 0
    last = run_in(tmp_path / "first") / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    for loop in LOOPS:
        assert fit(tmp_path / loop, loop, cycle, f"--ckpt_path={last}") == 2
        assert "planned for 6 steps, and this run has 15; pass the" in error_line(capsys)
        lower = ("--trainer.max_epochs=1", "--model.optimizer.lr=0.001", f"--weights={last}")
        assert fit(tmp_path / loop, loop, cycle, *lower) == 0
        capsys.readouterr()
    one, other = (ended(tmp_path / loop) for loop in LOOPS)
    assert_equal(one, other)
    rates = [
        group["max_lr"]
        for group in saved(run_in(tmp_path / "homemade"))["optimizer_states"][0]["param_groups"]
    ]
    assert rates == [0.001]
