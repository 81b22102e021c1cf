"""Both loops end with the same bits, cell by cell."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from twinloop.comparison.parity import (
    BASE,
    LOOPS,
    RUNS,
    Cell,
    cells,
    combinations,
    digits,
    record,
    refusal,
    table,
)
from twinloop.comparison.record import differences

FAST = 12
ALL = 72


def assert_equal_bits(cell: Cell) -> None:
    one, other = (record(loop, cell, digits()) for loop in LOOPS)
    assert differences(one, other) == []


@pytest.mark.parametrize(("axis", "value"), cells(), ids=lambda part: part.replace(" ", "-"))
def test_each_value_of_each_axis_is_exact(axis: str, value: str) -> None:
    assert_equal_bits(BASE | {axis: value})


@pytest.mark.parametrize("cell", combinations(FAST), ids=lambda cell: "-".join(cell.values()))
def test_combinations_are_exact(cell: Cell) -> None:
    assert_equal_bits(cell)


def test_looking_for_anomalies_is_exact_and_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = record("lightning", BASE, digits())
    monkeypatch.setitem(RUNS, "3 epochs", lambda: {"max_epochs": 3, "detect_anomaly": True})
    for loop in LOOPS:
        assert differences(record(loop, BASE, digits()), plain) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("model", ["MLP", "batch norm, dropout"])
def test_a_gpu_is_exact_with_deterministic_algorithms(
    model: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    cell = BASE | {"model": model, "precision": precision}
    try:
        one, other = (record(loop, cell, digits(), accelerator="gpu") for loop in LOOPS)
    finally:
        torch.use_deterministic_algorithms(False)
    assert differences(one, other) == []


@pytest.mark.slow
@pytest.mark.parametrize("cell", combinations(ALL)[FAST:], ids=lambda cell: "-".join(cell.values()))
def test_further_combinations_are_exact(cell: Cell) -> None:
    assert_equal_bits(cell)


def test_an_average_of_float64_differs_because_lightnings_passes_through_float32() -> None:
    cell = BASE | {"precision": "64-true", "averaging": "EMA of weights"}
    one, other = (record(loop, cell, digits()) for loop in LOOPS)
    found = differences(one, other)
    # Up to the first validation everything is equal; from then on Lightning's weights are rounded.
    differing = [line.partition(":")[0] for line in found]
    first = next(name for name in differing if name.startswith("step"))
    assert int(first.removeprefix("step ")) >= len(one.steps) // 3
    for name, weight in one.state.items():
        if weight.is_floating_point():
            assert torch.allclose(weight, other.state[name], rtol=1e-4, atol=1e-6)


def test_what_lightning_cannot_do_it_says() -> None:
    for value in ("empty val", "val every 2 epochs"):
        cell = BASE | {"schedule": "plateau on val/loss", "loop": value}
        assert refusal(cell) is not None
        with pytest.raises(MisconfigurationException, match="val/loss which is not available"):
            record("lightning", cell, digits())


def test_another_seed_is_not_equal() -> None:
    one, other = record("lightning", BASE, digits()), record("homemade", BASE, digits(), seed=1)
    found = differences(one, other)
    assert next(iter(found)).startswith("start: ")
    assert len(found) > len(one.steps)


def test_the_table_of_the_readme_is_the_one_that_is_proven_here() -> None:
    exact = table(dict.fromkeys(cells(), "exact"))
    assert exact in (Path(__file__).parents[2] / "README.md").read_text()
