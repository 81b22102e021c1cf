"""The list of all runs: found, filtered, sorted, the best of them; without PyTorch."""

import difflib
import gc
import json
import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from twinloop.errors import UserError
from twinloop.runs import summary

FACTS = ("run", "experiment", "loop", "data", "tags", "state", "started", "seconds", "epochs")
"""The columns that every run has, if not always a value in them."""
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Listed(NamedTuple):
    """A run in the list: its folder, its summary, and its facts and results by column."""

    folder: Path
    summary: dict[str, Any]
    measured: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """Every column: facts, results and settings."""
        others = self.summary.get("other_settings", {})
        return {**self.measured, **others, **self.summary["settings"], **self.measured}

    def value(self, name: str) -> Any:
        """The value in a column; None if there is none."""
        if name in self.measured:
            return self.measured[name]
        settings = self.summary["settings"]
        if name in settings:
            return settings[name]
        return self.summary.get("other_settings", {}).get(name)

    @property
    def group(self) -> tuple[str, str]:
        """What runs have in common that are compared: experiment and data."""
        return str(self.measured["experiment"]), str(self.measured["data"])


def find_runs(root: Path) -> list[Listed]:
    """Every run below `root`, at any depth.

    Raises:
        UserError: there is no such folder, or a summary is damaged.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; name that of the runs with --root")
    gc.disable()  # it would look at all summaries again and again
    try:
        return [read_run(Path(path), path[len(str(root)) + 1 :]) for path in _folders(str(root))]
    finally:
        gc.enable()


def read_run(folder: Path, name: str) -> Listed:
    """The run in a folder: its facts, its results, and its settings."""
    content = summary.read(folder)
    measured = {key: content.get(key) for key in FACTS}
    measured["run"], measured["state"] = name, summary.state_of(folder, content)
    for stage in ("val", "test"):
        for metric, value in content.get(stage, {}).items():
            measured[f"{stage}/{metric}"] = value
    return Listed(folder, content, measured)


def _folders(root: str) -> list[str]:
    """The paths of all runs below `root`; there are no others below a run."""
    found: list[str] = []
    with os.scandir(root) as entries:
        folders = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    for folder in folders:
        is_run = any(os.path.exists(f"{folder}/{name}") for name in (summary.NAME, summary.RESULTS))  # noqa: PTH110 - of ten thousand
        found += [folder] if is_run else _folders(folder)
    return found


def column(asked: str, runs: Iterable[Listed]) -> str:
    """The full name of a column: `lr` and `model.lr` stand for `model.optimizer.lr`.

    Raises:
        UserError: there is no such column, or several.
    """
    if asked in FACTS:
        return asked
    names = dict.fromkeys(name for run in runs for name in run.row)
    if asked in names:
        return asked
    parts = asked.split(".")
    found = [name for name in names if _is_short_for(parts, name.split("."))]
    if len(found) == 1:
        return found[0]
    close = found or difflib.get_close_matches(asked, names, 5, 0.4)
    reason = "stands for several columns" if found else "is no metric or setting of these runs"
    raise UserError(f"{asked!r} {reason}; there are {', '.join(close or names)}")


def _is_short_for(parts: Sequence[str], whole: Sequence[str]) -> bool:
    remaining = iter(whole)
    return parts[-1] == whole[-1] and all(part in remaining for part in parts)


def filtered(runs: list[Listed], conditions: Sequence[str]) -> tuple[list[Listed], list[str]]:
    """The runs for which conditions such as `val/accuracy>0.9` hold, and the columns in them.

    Raises:
        UserError: no condition, or an unknown column.
    """
    tests = []
    for text in conditions:
        match = re.fullmatch(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|[<>=])\s*(.*?)\s*", text)
        if not match:
            raise UserError(
                f"filter {text!r} is no condition; write one such as 'val/accuracy>0.9' or 'lr=0.1'"
            )
        tests.append((column(match[1], runs), match[2], _parsed(match[3])))
    for name, test, wanted in tests:
        runs = [run for run in runs if _holds(run.value(name), test, wanted)]
    return runs, [name for name, *_ in tests]


def _parsed(text: str) -> Any:
    """A number, a truth value or a list; otherwise the text itself."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


def _holds(value: Any, test: str, wanted: Any) -> bool:
    """Whether a condition holds; without a value only != does.

    Tags are equal to each of them, and a class to its name without the module.
    """
    if test in ("=", "==", "!="):
        same = value == wanted
        if isinstance(value, list) and not isinstance(wanted, list):
            same = str(wanted) in value
        elif isinstance(value, str):
            same = str(wanted) in (value, value.rpartition(".")[2])
        return bool(same == (test != "!="))
    try:
        return value is not None and bool(ORDER[test](value, wanted))
    except TypeError:
        return False


def ordered(runs: Sequence[Listed], name: str, *, reverse: bool = False) -> list[Listed]:
    """Runs in the order of a column, numbers before text; those without a value come first."""

    def key(run: Listed) -> tuple[bool, bool, Any]:
        value = run.value(name)
        is_number = isinstance(value, int | float)
        return value is not None, not is_number, value if is_number else str(value)

    return sorted(runs, key=key, reverse=reverse)


def best_of_each(runs: Sequence[Listed], metric: str) -> list[Listed]:
    """The best run of each experiment and data set, by a metric such as `val/accuracy`.

    Raises:
        UserError: no run has it, or it is not known whether high or low values are better.
    """
    found = []
    for _, group in groupby(sorted(runs, key=lambda run: run.group), lambda run: run.group):
        measured = [run for run in group if isinstance(run.value(metric), float)]
        modes = {run.summary.get("modes", {}).get(metric.partition("/")[2]) for run in measured}
        if modes in ({"min"}, {"max"}):
            choose = max if modes == {"max"} else min
            found.append(choose(measured, key=lambda run: run.value(metric)))
    if not found:
        names = {f"val/{name}" for run in runs for name in run.summary.get("modes", {})}
        raise UserError(
            f"best {metric!r}: no run has it, or it is not known which of its values are better; "
            f"there are {', '.join(sorted(names)) or 'none'}, and those of test"
        )
    return found


def varied_columns(runs: Sequence[Listed]) -> list[str]:
    """The settings that users vary and that differ between these runs."""
    settings = [run.summary["settings"] for run in runs]
    first = {name: runs[0].value(name) for name in dict.fromkeys(chain(*settings))}
    return [
        name
        for name, value in first.items()
        if name not in (*FACTS, "data.source", "notes")
        and any(
            one.get(name) != value and run.value(name) != value
            for one, run in zip(settings, runs, strict=True)
        )
    ]


def metric_columns(runs: Sequence[Listed], *, monitored: bool) -> list[str]:
    """The metrics of val and test of these runs; if `monitored` only those that select the best."""
    names = dict.fromkeys(
        f"{stage}/{name}"
        for stage in ("val", "test")
        for run in runs
        for name in run.summary.get(stage, {})
    )
    chosen = {str(run.summary.get("monitor")).partition("/")[2] for run in runs}
    return [name for name in names if not monitored or name.partition("/")[2] in chosen]
