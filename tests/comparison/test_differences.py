"""Records are compared by names, lengths and bits."""

import pytest
import torch

from twinloop.comparison.differences import compare_tensors, differences
from twinloop.runs.record import Record, flat


def moved(**changes: object) -> Record:
    parts = {
        "steps": [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(0.5)}],
        "start": {"w": torch.zeros(2)},
        "state": {"w": torch.ones(2)},
    }
    return Record(**(parts | changes))  # type: ignore[arg-type]


def test_a_record_whose_weights_have_not_moved_proves_nothing() -> None:
    with pytest.raises(AssertionError):
        differences(moved(), moved(state={"w": torch.zeros(2)}))


def test_lengths_and_names_are_compared_too() -> None:
    assert differences(moved(), moved()) == []
    shorter = moved(steps=[{"loss": torch.tensor(1.0)}])
    assert differences(moved(), shorter) == ["step: 2 against 1"]
    other = moved(state={"w": torch.ones(2), "b": torch.ones(1)})
    assert differences(moved(), other) == ["weights: only one has b"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0]), torch.tensor([float("nan")])),
    ],
    ids=["type", "shape", "sign of zero", "nan"],
)
def test_another_type_shape_or_sign_of_zero_differs(a: torch.Tensor, b: torch.Tensor) -> None:
    assert len(compare_tensors("x", {"v": a}, {"v": b})) == 1
    assert compare_tensors("x", {"v": b}, {"v": b.clone()}) == []  # the same NaN is equal


def test_a_difference_is_absolute_relative_and_in_last_places() -> None:
    one = torch.tensor([1.0, 4.0])
    other = torch.tensor([1.0, 4.0 + 3 * 2**-21])  # a unit in the last place of 4 is 2**-21
    assert compare_tensors("step 7", {"loss": one}, {"loss": other}) == [
        "step 7: loss differs by up to 1.43e-06 (4e-07 relative, 3 units in the last place)"
    ]


def test_a_difference_that_is_not_finite_has_both_values() -> None:
    one = torch.tensor([float("inf"), float("nan"), 1.0, float("inf")])
    other = torch.tensor([float("inf"), float("nan"), 2.0, 3.0])
    assert compare_tensors("step 7", {"norm": one}, {"norm": other}) == [
        "step 7: norm differs by up to inf (inf against 3)"
    ]
    assert compare_tensors("step 7", {"norm": one[:3]}, {"norm": other[:3]}) == [
        "step 7: norm differs by up to 1 (1 relative, 8.39e+06 units in the last place)"
    ]


def test_nested_state_is_named_by_its_path() -> None:
    found = flat({"state": {0: {"step": torch.tensor(3.0)}}, "lr": [0.1, None, "name"]})
    assert found.keys() == {"/state/0/step", "/lr/0"}
