"""Both loops are given the same command, and leave the same, bit for bit; or refuse it alike."""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging

from twinloop.cli.parity import compare, run
from twinloop.comparison.matrix import AXES, EXPERIMENT, Expected, Settings, callback, trainer
from twinloop.comparison.options import BASES, REFUSED, UNTRANSLATED
from twinloop.comparison.outcome import differences
from twinloop.comparison.parity import (
    BASE,
    ELSEWHERE,
    LOOPS,
    Cell,
    combinations,
    experiments,
    inexact,
    options,
    pairs,
    settings_of,
)
from twinloop.data.augment import Augmentation
from twinloop.data.datamodule import ImageDataModule
from twinloop.tasks import (
    Classification,
    Grouped,
    OneCycle,
    Plateau,
    Reconstruction,
    TorchSchedule,
)

pytestmark = pytest.mark.timeout(60)  # a loop that does not stop is what a cell may find

COMBINATIONS = 100
FAST = {
    "model": ["batch norm, dropout, label smoothing"],
    "schedule": ["OneCycle, by step"],
    "accumulation": ["4"],
    "loop": ["val inside an epoch", "empty val"],
    "refused by both, in the same line": ["`max_epochs` 0", "early stopping on an unknown metric"],
    "refused by the homemade loop, by name": ["`num_nodes` 2"],
}
"""The most telling ones, for `make test`; the others take minutes."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nothing here is large enough for a second one, of which ddp's launcher would make use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


def assert_as_expected(settings: Settings, folder: Path, expected: Expected) -> None:
    found = compare(settings, folder, expected)
    assert not found, "\n".join([*found[:10], f"{len(found)} differences"])


def marked() -> list[Any]:
    """Every experiment, those that are not in `FAST` marked as slow."""
    return [
        pytest.param(
            *experiment[2:],
            id="-".join(experiment[:2]).replace(" ", "-"),
            marks=() if experiment[1] in FAST.get(experiment[0], ()) else pytest.mark.slow,
        )
        for experiment in experiments()
    ]


@pytest.mark.parametrize(("settings", "expected"), marked())
def test_each_value_and_each_option_comes_out_as_it_should(
    settings: Settings, expected: Expected, tmp_path: Path
) -> None:
    assert_as_expected(settings, tmp_path, expected)


def test_those_of_the_fast_tests_are_there() -> None:
    there = {(row, value) for row, value, *_ in experiments()}
    assert {(row, value) for row, values in FAST.items() for value in values} <= there


STEPS = {
    "limit batches": 8,
    "limit by share": 8,
    "val inside an epoch": 12,
    "val inside, by share": 12,
    "max_steps inside the first epoch": 2,
    "max_steps inside an epoch": 8,
    "max_steps at an epoch's end": 12,
    "max_steps beyond the epochs": 12,
    "overfit one batch": 3,
    "overfit a share": 9,
    "fast_dev_run": 0,  # it leaves no record
    "fast_dev_run of 2": 0,
    "no batch of val": 12,
    "empty val": 16,  # 1,437 images in eight batches, for two epochs
    "detect_anomaly": 12,
    "deterministic": 12,
    "deterministic, warn": 12,
}
"""How many steps a loop takes that does not go through 6 batches three times."""


VALIDATED = {
    "val every 2 epochs": [2],
    "val inside every 2 epochs": [2],
    "val less than once an epoch": [2, 3],  # after batches 8 and 16 of 18
    "max_steps inside the first epoch": [],
    "max_steps inside an epoch": [1],
    "no batch of val": [],
    "empty val": [],
}
"""Which epochs a loop validates in, where it does not in each."""


@pytest.mark.slow
@pytest.mark.parametrize("value", AXES["loop"], ids=lambda value: value.replace(" ", "-"))
def test_a_loop_steps_saves_and_validates_when_it_should(value: str, tmp_path: Path) -> None:
    outcome = run(settings_of(BASE | {"loop": value}), "lightning", tmp_path)
    steps = STEPS.get(value, 18)
    assert (outcome.status, outcome.steps) == (0, steps)
    if steps:
        assert outcome.found["last.ckpt/global_step"] == steps
        rows = json.loads((tmp_path / "lightning" / "results.json").read_text())["history"]
        validated = [row["epoch"] for row in rows if any(name.startswith("val/") for name in row)]
        assert validated == VALIDATED.get(value, [row["epoch"] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("settings", combinations(COMBINATIONS), ids=range(COMBINATIONS))
def test_combinations_come_out_the_same(settings: Settings, tmp_path: Path) -> None:
    assert_as_expected(settings, tmp_path, "same or refused")


def named(cell: Cell) -> str:
    """What a cell has that is not as in `BASE`."""
    return "-".join(value.replace(" ", "-") for axis, value in cell.items() if value != BASE[axis])


@pytest.mark.slow
@pytest.mark.parametrize("cell", pairs(), ids=named)
def test_pairs_come_out_the_same(cell: Cell, tmp_path: Path) -> None:
    assert_as_expected(settings_of(cell), tmp_path, "same or refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTRANSLATED)
def test_a_callback_without_counterpart_is_refused_by_name(name: str, tmp_path: Path) -> None:
    settings = settings_of(BASE, callback(name, **UNTRANSLATED[name]))
    refused = run(settings, "homemade", tmp_path)
    assert (refused.status, len(refused.errors)) == (2, 1)
    assert f"has no counterpart for {name}" in refused.errors[0]


def values_of(prefix: str) -> dict[str, list[Any]]:
    """Every key of a setting that begins so, without that, and each value that it is given."""
    found: dict[str, list[Any]] = {}
    values = [value for axis in AXES.values() for value in axis.values()]
    given = [EXPERIMENT, *values]
    given += [{key: value} for key, value, *_ in options()]
    for settings in given:
        for key, value in settings.items():
            if key.startswith(prefix):
                found.setdefault(key.removeprefix(prefix), []).append(value)
    return found


def arguments_of(axis: str) -> dict[str, list[Any]]:
    """Every argument of the classes of an axis, and each value that it is given."""
    found: dict[str, list[Any]] = {}

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            for name, value in part.get("init_args", {}).items():
                found.setdefault(name, []).append(value)
            for inner in part.values():
                collect(inner)
        elif isinstance(part, list):
            for inner in part:
                collect(inner)

    for value in AXES[axis].values():
        collect(value)
    return found


@pytest.mark.parametrize(
    ("made", "given", "left_out"),
    [
        (Trainer, values_of("trainer."), ()),
        (ImageDataModule, values_of("data."), ()),
        (
            Augmentation,
            {k: v for d in values_of("data.")["augmentation"] for k, v in d.items()},
            (),
        ),
        (EarlyStopping, arguments_of("early stopping"), ("verbose", "log_rank_zero_only")),
        (EMAWeightAveraging, arguments_of("averaging"), ("kwargs",)),
        # The data set's facts are linked; optimiser and schedule are axes of their own.
        (Classification, arguments_of("model"), ("spec", "optimizer", "schedule")),
        (Reconstruction, arguments_of("model"), ("spec", "optimizer", "schedule")),
        (OneCycle, arguments_of("schedule"), ()),
        (Plateau, arguments_of("schedule"), ()),
        (TorchSchedule, arguments_of("schedule"), ()),
        (Grouped, arguments_of("optimiser"), ("params",)),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else "",
)
def test_every_argument_has_a_value_in_the_matrix_that_is_not_its_default(
    made: Callable[..., Any], given: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    for name, parameter in inspect.signature(made).parameters.items():
        if name not in left_out:
            values = given.get(name, [])
            values = values if isinstance(values, list) else [values]
            assert any(value != parameter.default for value in values), name


def test_every_setting_of_the_command_is_in_the_matrix(tmp_path: Path) -> None:
    assert run(settings_of(BASE), "lightning", tmp_path).status == 0
    written = yaml.safe_load((tmp_path / "lightning" / "config.yaml").read_text())
    ours = {key.partition(".")[0] for key in values_of("")} | ELSEWHERE.keys()
    assert written.keys() - ours == {"loop", "run_folder"}


def test_every_callback_of_lightning_has_a_counterpart_or_is_refused() -> None:
    translated = {"EarlyStopping", "EMAWeightAveraging"}
    assert set(lightning.pytorch.callbacks.__all__) == {
        *translated,
        *UNTRANSLATED,
        *REFUSED,
        *BASES,
    }


@pytest.mark.slow
def test_another_seed_is_not_equal(tmp_path: Path) -> None:
    one = run(settings_of(BASE), "lightning", tmp_path)
    other = run(settings_of(BASE, {"seed_everything": 2}), "homemade", tmp_path)
    assert one.steps == other.steps == 18
    found = differences(one, other)
    assert found[0].startswith("record/start/")
    places = {line.partition(":")[0].partition("/")[0] for line in found}
    everywhere = {"record", "last.ckpt", "best.ckpt", "results", "config", "TensorBoard", "printed"}
    assert places == {*everywhere, "run", "random state"}  # run.json


@pytest.mark.slow
def test_figures_are_the_same_too(tmp_path: Path) -> None:
    for model in ("MLP", "lesson autoencoder"):
        for loop in LOOPS:
            run(settings_of(BASE | {"model": model}), loop, tmp_path, draws=True)
        one, other = (sorted((tmp_path / loop).glob("*.png")) for loop in LOOPS)
        assert [path.name for path in one] == [path.name for path in other]
        assert len(one) == 2
        for a, b in zip(one, other, strict=True):
            assert a.read_bytes() == b.read_bytes() != b""


@pytest.mark.slow
def test_an_average_of_float64_differs_because_lightnings_passes_through_float32(
    tmp_path: Path,
) -> None:
    settings = settings_of(BASE | {"precision": "64-true", "averaging": "EMA of weights"})
    assert inexact(settings)
    one, other = (run(settings, loop, tmp_path) for loop in LOOPS)
    found = differences(one, other)
    # Up to the first validation everything is equal; from then on Lightning's weights are rounded.
    first = next(line for line in found if line.startswith("record/steps/"))
    assert int(first.split("/")[2]) >= 12  # a loss and a gradient for each of six batches
    for key, value in one.found.items():
        if key.startswith("record/state/"):
            torch.testing.assert_close(value, other.found[key], rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("model", ["MLP", "batch norm, dropout, label smoothing"])
def test_a_gpu_is_exact_with_deterministic_algorithms(
    model: str, precision: str, tmp_path: Path
) -> None:
    flags = trainer(accelerator="gpu", precision=precision, deterministic=True)
    assert_as_expected(settings_of(BASE | {"model": model}, flags), tmp_path, "same")
