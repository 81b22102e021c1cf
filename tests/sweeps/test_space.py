"""A sweep file: what it varies, its combinations, and mistakes in a line each."""

from pathlib import Path
from typing import Any

import pytest

from twinloop.errors import UserError
from twinloop.sweeps.space import Sweep, options, parse_sweep

PATH = Path("sweep.yaml")
NETWORK: dict[str, Any] = {
    "model.network": ["MLP", "CNN"],
    "model.network.hidden": {"low": 8, "high": 24, "step": 8, "when": {"model.network": "MLP"}},
    "data.batch_size": [32, 64],
}


def swept(settings: dict[str, Any], **more: Any) -> Sweep:
    return parse_sweep({"settings": settings} | more, PATH)


def test_a_grid_has_each_combination_once() -> None:
    found = swept(NETWORK, sampler="grid").combinations()
    of_mlp = [(hidden, size) for hidden in (8, 16, 24) for size in (32, 64)]
    assert [tuple(values.values()) for values in found] == [
        *(("MLP", hidden, size) for hidden, size in of_mlp),
        *(("CNN", size) for size in (32, 64)),
    ]


def test_the_probes_have_every_end_under_its_conditions() -> None:
    probes = swept(NETWORK).probes()
    assert {"model.network": "CNN", "data.batch_size": 32} in probes
    assert {"model.network": "MLP", "model.network.hidden": 24, "data.batch_size": 32} in probes
    assert len(probes) == 4


def test_values_become_options_of_fit() -> None:
    settings = swept(
        {"a": [1, True, None, "text", {"class_path": "B"}], "b": {"low": "1e-3", "high": 1}}
    )
    (choices, number) = settings.settings
    assert [options({"a": choice})[0] for choice in choices.choices] == [
        *("--a=1", "--a=true", "--a=null", "--a=text", '--a={"class_path": "B"}')
    ]
    assert (number.low, number.is_whole, number.all_values) == (0.001, False, ())


LR = {"low": 0.1, "high": 1.0}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"trails": 3}, "there is no key 'trails'; the keys are metric, direction"),
    "no settings": ({"settings": {}}, "settings has nothing to vary"),
    "no mapping": ({"settings": {"a": 3}}, "settings: a is 3; give a list of choices"),
    "unknown part": ({"settings": {"a": LR | {"lo": 1}}}, "settings: a: there is no key 'lo'"),
    "no choice": ({"settings": {"a": []}}, "settings: a: choices are empty"),
    "twice": ({"settings": {"a": [1, 1]}}, "settings: a: choices are empty, or one is there twice"),
    "both": ({"settings": {"a": LR | {"choices": [1]}}}, "choices are a list, without low"),
    "empty": ({"settings": {"a": {"low": 2, "high": 2}}}, "the range from 2 to 2 is empty"),
    "no high": ({"settings": {"a": {"low": 2}}}, "settings: a: high is None; it must be a number"),
    "text": ({"settings": {"a": LR | {"low": "x"}}}, "settings: a: low is 'x'; it must be a"),
    "log of 0": ({"settings": {"a": {"low": 0, "high": 1, "log": True}}}, "needs a low above 0"),
    "step": ({"settings": {"a": LR | {"step": 0.4}}}, "step is 0.4; high is low plus steps"),
    "negative step": ({"settings": {"a": LR | {"step": -0.1}}}, "step is -0.1"),
    "later key": ({"settings": {"a": LR | {"when": {"b": 1}}, "b": [1, 2]}}, "'b' is not listed"),
    "no value": ({"settings": {"b": [1, 2], "a": LR | {"when": {"b": 3}}}}, "b never is 3"),
    "no conditions": ({"settings": {"a": LR | {"when": "b"}}}, "when is 'b'; it maps keys"),
    "grid": ({"sampler": "grid"}, "settings: a: a grid has no values of a continuous range"),
    "large grid": (
        {"sampler": "grid", "settings": {"a": {"low": 1, "high": 10**6}}},
        "the grid has over 100,000 combinations",
    ),
    "sampler": ({"sampler": "best"}, "sampler is 'best'; it must be one of tpe, random, grid"),
    "pruner": ({"pruner": {"n": 1}}, "pruner is {'n': 1}; it must be one of none, median"),
    "direction": ({"direction": "up"}, "direction is 'up'; it must be minimize or maximize"),
    "metric": ({"metric": 3}, "metric is 3; it must be a name"),
    "trials": ({"trials": 0}, "trials is 0; it must be from 1 to 100,000"),
    "seed": ({"seed": "a"}, "seed is 'a'; it must be from 0"),
}


@pytest.mark.parametrize(("content", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_in_a_line(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sweep({"settings": {"a": LR}} | content, PATH)
    line = str(caught.value)
    assert line.startswith(f"{PATH}: ")
    assert message in line
    assert "\n" not in line
