"""The proof: the same experiments through both loops, and everything that a fit leaves compared.

A cell is a value for every axis of the matrix. `python -m twinloop parity` runs each value and
each option in both loops, and prints the table.
"""

import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from twinloop.comparison.matrix import AXES, EXPERIMENT, HALF, Expected, Option, Settings
from twinloop.comparison.options import IMPOSSIBLE, OPTIONS
from twinloop.comparison.outcome import LOOPS as LOOPS
from twinloop.comparison.outcome import Loop as Loop
from twinloop.comparison.outcome import Outcome, differences, run
from twinloop.errors import Parser

Cell = dict[str, str]
"""A value by its name for every axis."""
BASE: Cell = {axis: next(iter(values)) for axis, values in AXES.items()}


def cells() -> list[tuple[str, str]]:
    """Each value of each axis; with the others as in `BASE` it is a cell."""
    return [(axis, value) for axis, values in AXES.items() for value in values]


def pairs() -> list[Cell]:
    """Values of two axes that have to do with each other, which single values would not show."""
    codes = BASE | {"model": "bottleneck autoencoder"}
    normed = BASE | {"model": "batch norm, dropout, label smoothing"}
    found = [codes | {"precision": precision} for precision in AXES["precision"]]
    found += [codes | {"data": data} for data in ("resized", "last batch full")]
    found += [normed | {"averaging": averaging} for averaging in AXES["averaging"]]
    found += [normed | {"accumulation": "4", "clipping": clip} for clip in AXES["clipping"]]
    for stop in ("of val in every pass", "of train"):
        found += [BASE | {"loop": loop, "early stopping": stop} for loop in AXES["loop"]]
    return found


def options() -> list[tuple[str, Option]]:
    """Each option with each of its values."""
    return [(key, option) for key, found in OPTIONS.items() for option in found]


def settings_of(cell: Cell, *more: Settings) -> Settings:
    """The experiment of a cell, with more settings on top; callbacks are added to callbacks."""
    merged = dict(EXPERIMENT)
    callbacks: list[Settings] = []
    for settings in (*(AXES[axis][value] for axis, value in cell.items()), *more):
        merged |= settings
        callbacks += settings.get("trainer.callbacks", [])
    return merged | ({"trainer.callbacks": callbacks} if callbacks else {})


def combinations(count: int, seed: int = 0) -> list[Settings]:
    """A random sample of cells that are exact, each with an option that both loops take.

    The same for the same seed. Some ask for what cannot be, and should be refused by both.
    """
    draw = random.Random(seed)
    taken = [
        dict(option.context) | {key: option.value}
        for key, option in options()
        if option.expected == "same" and key != "record"
    ]
    found: list[Settings] = []
    while len(found) < count:
        cell = {axis: draw.choice(list(values)) for axis, values in AXES.items()}
        settings = settings_of(cell, draw.choice(taken))
        if cell["precision"] != HALF and inexact(settings) is None:
            found.append(settings)
    return found


def inexact(settings: Settings) -> str | None:
    """Why the loops do not agree in these settings, or None if they do."""
    callbacks = [callback["class_path"] for callback in settings.get("trainer.callbacks", ())]
    averages = any(path.endswith("EMAWeightAveraging") for path in callbacks)
    if averages and str(settings.get("trainer.precision")).startswith("64"):
        return (
            "EMAWeightAveraging copies the model before it is converted, and exchanges weights "
            "with that copy to validate: Lightning's pass through float32"
        )
    return None


def compare(settings: Settings, folder: Path, expected: Expected = "same") -> list[str]:
    """What is not as expected when both loops are given the same settings; empty if nothing."""
    other = run(settings, "homemade", folder)
    if expected == "not in one process":
        return _unrefused(other)
    one = run(settings, "lightning", folder)
    trains = expected == "same"
    if expected == "same or refused":
        expected = "refused" if one.status == 2 else "same"
    if expected == "refused":
        return _unrefused(one) + differences(one, other)
    untrained = [] if one.status == 0 else [f"Lightning: status {one.status}, {one.errors[-1:]}"]
    recorded = settings["record"] == "all" and not settings.get("trainer.fast_dev_run")
    if trains and recorded and not one.steps:
        untrained.append("Lightning: no step was taken")
    if expected == "homemade refuses":
        return untrained + _unrefused(other)
    return untrained + differences(one, other)


def _unrefused(outcome: Outcome) -> list[str]:
    """What is wrong with a refusal: it is one line of status 2, and nothing was begun."""
    found = []
    if outcome.status != 2:
        found.append(f"status {outcome.status} where it should refuse")
    if len(outcome.errors) != 1 or not outcome.errors[0].startswith("error: "):
        found.append(f"no line that says why: {outcome.errors[-1:]}")
    return found + [f"{key} is left" for key in outcome.found if key.startswith("files/")]


ELSEWHERE = {
    "stop and go on": (
        "after SIGTERM in an epoch or at its end; by the same loop or the other (test_resume.py)"
    ),
    "compile": "`default`, in a process of its own (test_cli.py)",
    "processes": "2 over gloo: evenly divided, not evenly, accumulated (test_distributed.py)",
    "device": "CPU; a GPU has not been tried",
}
"""What takes signals, processes or another machine, and the test that shows it."""
KINDS: dict[str, tuple[Expected, ...]] = {
    "other options": ("same",),
    "refused by both, in the same line": ("refused",),
    "refused by the homemade loop, by name": ("homemade refuses", "not in one process"),
}
"""A row of the table for what becomes of options, and which of them it has."""
Experiment = tuple[str, str, Settings, Expected]
"""A row of the table, what stands there, its settings, and what should become of them."""


def experiments() -> Iterator[Experiment]:
    """Each value of each axis, each option, and everything that cannot be."""
    for axis, value in cells():
        yield axis, value, settings_of(BASE | {axis: value}), "same"
    for row, kinds in KINDS.items():
        for key, (value, expected, context) in options():
            if expected in kinds:
                settings = settings_of(BASE, dict(context), {key: value})
                beside = "".join(
                    f" with `{name.removeprefix('trainer.')}` {json.dumps(given)}"
                    for name, given in context
                )
                yield (
                    row,
                    f"`{key.removeprefix('trainer.')}` {json.dumps(value)}{beside}",
                    settings,
                    expected,
                )
        if "refused" in kinds:
            for name, settings in IMPOSSIBLE.items():
                yield row, name, settings_of(BASE, settings), "refused"


def table(results: dict[tuple[str, str], str]) -> str:
    """The proof as a Markdown table: the values of each row, and what is not exact of them."""
    rows: dict[str, dict[str, list[str]]] = {}
    for (row, value), result in results.items():
        # Values of one option stand behind its name.
        name, space, rest = value.partition("` ") if value.startswith("`") else (value, "", "")
        told = rest if result == "exact" else f"{rest} ({result})".lstrip()
        rows.setdefault(row, {}).setdefault(name + space, []).append(told)
    lines = ["| axis | bit for bit the same in both loops |", "| --- | --- |"]
    for row, values in rows.items():
        found = "; ".join(
            f"{name}{' ' * (not name.endswith(' '))}{', '.join(told)}".strip()
            for name, told in values.items()
        )
        lines.append(f"| {row} | {found} |")
    return "\n".join([*lines, *(f"| {row} | {what} |" for row, what in ELSEWHERE.items())])


def main(args: list[str]) -> int:
    """Run every experiment and a few combinations in both loops, and print the table of results.

    Returns:
        The exit status: 0 if everything is as expected, else 1.
    """
    Parser("python -m twinloop parity", allow_abbrev=False).parse_args(args)
    count = 12
    from rich.progress import track

    # Nothing here is large enough for a second thread, of which ddp's launcher would make use.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def verdict(settings: Settings, expected: Expected) -> str:
            found = compare(settings, folder / "cell", expected)
            return "exact" if not found else f"{len(found)} things differ, first {found[0]}"

        all_of_them = list(experiments())
        results = {
            (row, value): verdict(settings, expected)
            for row, value, settings, expected in track(all_of_them, "cells", transient=True)
        }
        sample = [
            verdict(settings, "same or refused")
            for settings in track(combinations(count), "combinations", transient=True)
        ]
    print(table(results))
    print(f"\n{sample.count('exact')} of {count} random combinations of these values are exact.")
    return 0 if {*results.values(), *sample} == {"exact"} else 1
