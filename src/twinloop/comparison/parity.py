"""The settings that the proof of parity runs in both loops, and the table of its results.

A cell is a value for every axis of the matrix. `python -m twinloop parity` runs each value and
each option in both loops, and prints the table.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from twinloop.comparison.matrix import AXES, EXPERIMENT, HALF, Expected, Settings, With
from twinloop.comparison.options import IMPOSSIBLE, OPTIONS
from twinloop.loops import LOOPS as LOOPS
from twinloop.loops import Loop as Loop

Cell = dict[str, str]
"""The name of a value for every axis."""
BASE: Cell = {axis: next(iter(values)) for axis, values in AXES.items()}


def cells() -> list[tuple[str, str]]:
    """Each value of each axis; a cell has the other values of `BASE`."""
    return [(axis, value) for axis, values in AXES.items() for value in values]


def pairs() -> list[Cell]:
    """Cells with two values that interact, which single values would not show."""
    codes = BASE | {"model": "bottleneck autoencoder"}
    normed = BASE | {"model": "batch norm, dropout, label smoothing"}
    found = [codes | {"precision": precision} for precision in AXES["precision"]]
    found += [codes | {"data": data} for data in ("resized", "last batch full")]
    found += [normed | {"averaging": averaging} for averaging in AXES["averaging"]]
    found += [normed | {"accumulation": "4", "clipping": clip} for clip in AXES["clipping"]]
    for stop in ("of val in every pass", "of train"):
        found += [BASE | {"loop": loop, "early stopping": stop} for loop in AXES["loop"]]
    return found


def options() -> list[tuple[str, Any, Settings, Expected]]:
    """Each value of each option: its key, the value, further settings, the expected result."""
    return [
        (key, *(value if isinstance(value, With) else With(value, {})), expected)
        for key, kinds in OPTIONS.items()
        for expected, values in kinds.items()
        for value in values
    ]


def settings_of(cell: Cell, *more: Settings) -> Settings:
    """The experiment of a cell, overridden by `more` settings; callbacks add up."""
    merged = dict(EXPERIMENT)
    callbacks: list[Settings] = []
    for settings in (*(AXES[axis][value] for axis, value in cell.items()), *more):
        merged |= settings
        callbacks += settings.get("trainer.callbacks", [])
    return merged | ({"trainer.callbacks": callbacks} if callbacks else {})


def combinations(count: int, seed: int = 0) -> list[Settings]:
    """A random sample of exact cells, each with an option that both loops accept.

    The same for the same seed. Some are invalid, and should be refused by both.
    """
    draw = random.Random(seed)
    accepted = [
        context | {key: value}
        for key, value, context, expected in options()
        if expected == "same" and key != "record"
    ]
    found: list[Settings] = []
    while len(found) < count:
        cell = {axis: draw.choice(list(values)) for axis, values in AXES.items()}
        settings = settings_of(cell, draw.choice(accepted))
        if cell["precision"] != HALF and inexact(settings) is None:
            found.append(settings)
    return found


def inexact(settings: Settings) -> str | None:
    """Why the loops differ in these settings, or None if they are bit-identical."""
    callbacks = [callback["class_path"] for callback in settings.get("trainer.callbacks", ())]
    averages = any(path.endswith("EMAWeightAveraging") for path in callbacks)
    if averages and str(settings.get("trainer.precision")).startswith("64"):
        return (
            "EMAWeightAveraging copies the model before it is converted, and swaps weights with "
            "that copy for validation: Lightning's pass through float32"
        )
    return None


ELSEWHERE = {
    "stop and resume": (
        "after SIGTERM in an epoch or at its end; by the same loop or the other (test_resume.py)"
    ),
    "own data": (
        "in memory, by worker processes, a stream; modules as augmentation; numbers, labels and "
        "images as targets; resumed inside an epoch (test_own_data.py)"
    ),
    "compile": "`default`, in a process of its own (test_cli.py)",
    "processes": "2 over gloo: evenly divided, not evenly, accumulated (test_distributed.py)",
    "device": "CPU; a GPU has not been tried",
}
"""What needs signals, processes or another machine, and the test of it."""
KINDS: dict[str, tuple[Expected, ...]] = {
    "other options": ("same",),
    "refused by both, in the same line": ("refused",),
    "refused by the homemade loop, by name": ("homemade refuses", "not in one process"),
}
"""The rows of the table for options, and the expected results that each has."""
Experiment = tuple[str, str, Settings, Expected]
"""The row of the table, the text in it, the settings, and the expected result."""


def experiments() -> Iterator[Experiment]:
    """Each value of each axis, each option, and every invalid combination."""
    for axis, value in cells():
        yield axis, value, settings_of(BASE | {axis: value}), "same"
    for row, kinds in KINDS.items():
        for key, value, context, expected in options():
            if expected in kinds:
                settings = settings_of(BASE, context, {key: value})
                beside = "".join(
                    f" with `{name.removeprefix('trainer.')}` {json.dumps(given)}"
                    for name, given in context.items()
                )
                text = f"`{key.removeprefix('trainer.')}` {json.dumps(value)}{beside}"
                yield row, text, settings, expected
        if "refused" in kinds:
            for name, settings in IMPOSSIBLE.items():
                yield row, name, settings_of(BASE, settings), "refused"


def table(results: dict[tuple[str, str], str]) -> str:
    """The results as a Markdown table: the values of each row, with those that are not exact."""
    rows: dict[str, dict[str, list[str]]] = {}
    for (row, value), result in results.items():
        # Values of one option are listed after its name.
        name, space, rest = value.partition("` ") if value.startswith("`") else (value, "", "")
        text = rest if result == "exact" else f"{rest} ({result})".lstrip()
        rows.setdefault(row, {}).setdefault(name + space, []).append(text)
    lines = ["| axis | bit for bit the same in both loops |", "| --- | --- |"]
    for row, values in rows.items():
        found = "; ".join(
            f"{name}{' ' * (not name.endswith(' '))}{', '.join(texts)}".strip()
            for name, texts in values.items()
        )
        lines.append(f"| {row} | {found} |")
    return "\n".join([*lines, *(f"| {row} | {text} |" for row, text in ELSEWHERE.items())])
