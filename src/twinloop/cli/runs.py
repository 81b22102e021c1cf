"""`python -m twinloop runs`: list all runs, compare two, tag them, remove them.

Imports no PyTorch, so that thousands of runs are listed at once.
"""

import csv
import io
import json
import re
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from twinloop.errors import Parser, UserError, escape_unprintable
from twinloop.runs import summary
from twinloop.runs.listing import (
    FACTS,
    Listed,
    best_of_each,
    column,
    filtered,
    find_runs,
    metric_columns,
    ordered,
    read_run,
    varied_columns,
)
from twinloop.runs.lock import is_locked, lock_run

LEVELS = "▁▂▃▄▅▆▇█"
WIDEST = 40
"""Characters of a cell of the table; csv and json have all."""
USAGE = """\
  runs diff A B        what differs between two runs: settings, versions, results, curves
  runs tag A WORD ...  give a run these tags in place of its own; without a word, none
  runs rm A ...        remove runs, after a question; none that is running, has the tag `best`,
                       or is the best of several runs of its experiment on the same data

A run is named as in the list, or by the path of its folder. KEY is a column, a metric
(val/accuracy) or a setting (model.optimizer.lr), of which lr or model.lr is enough where no
other ends so. A run is finished, running, stopped (and can be resumed), or failed.
"""


def main(args: list[str]) -> int:
    """List the runs, or do with them what the first argument says.

    Raises:
        UserError: an unknown run, column or option.
    """
    action = ACTIONS.get(args[0]) if args else None
    return action(args[1:]) if action else _list(args)


def _parser(action: str, description: str, epilog: str = "") -> Parser:
    parser = Parser(
        f"twinloop runs{action}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    folder = "the folder of the runs, at any depth (default: lightning_logs)"
    parser.add_argument("--root", type=Path, default=Path("lightning_logs"), help=folder)
    return parser


def _list(args: list[str]) -> int:
    parser = _parser("", "List all runs, the newest last.", USAGE)
    parser.add_argument("--sort", metavar="KEY", default="started", help="ascending by this column")
    parser.add_argument("--reverse", action="store_true", help="descending")
    condition = "only runs with 'val/accuracy>0.9', 'lr=0.01', 'tags=paper'; may be repeated"
    parser.add_argument(
        "--filter", action="append", default=[], metavar="CONDITION", help=condition
    )
    best = "only the best of each experiment on the same data, such as val/accuracy"
    parser.add_argument("--best", metavar="METRIC", help=best)
    parser.add_argument("--format", choices=FORMATS, default="table")
    given = parser.parse_args(args)
    runs, asked = find_runs(given.root), [given.sort]
    if runs:
        runs, names = filtered(runs, given.filter)
        asked += names
    if runs and given.best:
        runs, asked = best_of_each(runs, given.best), [*asked, given.best]
    if runs:
        asked = [column(name, runs) for name in asked]
        runs = ordered(runs, asked[0], reverse=given.reverse)
    print(FORMATS[given.format](runs, asked), end="")
    return 0


def _as_table(runs: Sequence[Listed], asked: Sequence[str]) -> str:
    """Facts, the settings that differ, the monitored metrics, and the columns that were `asked`."""
    shown = [*FACTS, *varied_columns(runs), *metric_columns(runs, monitored=True), *asked]
    rows = [[_cell(run.value(name)) for name in dict.fromkeys(shown)] for run in runs]
    return _aligned([list(dict.fromkeys(shown)), *rows]) if runs else "no runs\n"


def _as_csv(runs: Sequence[Listed], _: Sequence[str]) -> str:
    text = io.StringIO()
    names = [*FACTS, *metric_columns(runs, monitored=False)]
    names += [name for run in runs for name in run.row]
    writer = csv.DictWriter(text, list(dict.fromkeys(names)), lineterminator="\n")
    writer.writeheader()
    for run in runs:
        writer.writerow(run.row | {"tags": " ".join(run.measured["tags"] or ())})
    return text.getvalue()


def _as_json(runs: Sequence[Listed], _: Sequence[str]) -> str:
    return json.dumps([run.row for run in runs], indent=2) + "\n"


FORMATS = {"table": _as_table, "csv": _as_csv, "json": _as_json}


def _cell(value: Any) -> str:
    """A value in the table."""
    if isinstance(value, list):
        return " ".join(map(_text, value)) or "-"
    return _text(value)


@lru_cache(None, typed=True)
def _text(value: Any) -> str:
    """A class without its module, a time to the minute, and nothing too wide for a column."""
    if value is None or isinstance(value, float):
        return "-" if value is None else f"{value:.4g}"
    text = escape_unprintable(str(value))
    if re.fullmatch(r"\d{4}-\d\d-\d\dT.*", text):
        return text[:16].replace("T", " ")
    if re.fullmatch(r"[\w.]+\.[A-Z]\w*", text):
        return text.rpartition(".")[2]
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with columns; rich takes seconds for thousands."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _named(name: str, root: Path) -> Listed:
    """The run of a name in the list, or of a path.

    Raises:
        UserError: there is none.
    """
    for folder in (root / name, Path(name)):
        if any((folder / file).is_file() for file in (summary.NAME, summary.RESULTS)):
            return read_run(folder, name)
    raise UserError(f"there is no run {name} in {root}; `twinloop runs` lists them")


def _diff(args: list[str]) -> int:
    parser = _parser(" diff", "Print what differs between two runs.")
    parser.add_argument("runs", nargs=2, metavar="RUN")
    given = parser.parse_args(args)
    runs = [_named(name, given.root) for name in given.runs]
    results = [_results(run) for run in runs]
    settings = [
        {**run.summary["settings"], **run.summary.get("other_settings", {}), "run_folder": None}
        for run in runs
    ]
    made = [
        {name: found.get(name) for name in ("machine", "device", "commit", "uncommitted_changes")}
        | found.get("versions", {})
        for found in results
    ]
    measured = [
        {name: run.value(name) for name in ("state", "seconds", "epochs")}
        | {name: run.value(name) for name in metric_columns([run], monitored=False)}
        for run in runs
    ]
    parts = {"settings": settings, "versions": made, "results": measured}
    for title, (one, other) in parts.items():
        rows = _differing(one, other)
        print(_aligned([[title, *given.runs], *rows] if rows else [[title, "the same"]]))
    histories = [found.get("history", []) for found in results]
    names = [
        name for name in dict.fromkeys(k for h in histories for r in h for k in r) if "/" in name
    ]
    curves = [[name, *(_curve(history, name) for history in histories)] for name in names]
    print(_aligned([["curves", *given.runs], *curves]), end="")
    return 0


def _results(run: Listed) -> dict[str, Any]:
    """The results.json of a run; empty for one that has not finished."""
    path = run.folder / summary.RESULTS
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[list[str]]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [[name, _exact(one.get(name)), _exact(other.get(name))] for name in names]


def _exact(value: Any) -> str:
    return "-" if value is None else escape_unprintable(str(value))


def _curve(history: Sequence[dict[str, Any]], name: str) -> str:
    """A metric over the epochs as a line of blocks, with its first and last value."""
    values = [row[name] for row in history if row.get(name) is not None]
    if not values:
        return "-"
    low, span = min(values), max(values) - min(values) or 1
    picked = values if len(values) <= WIDEST else values[:: -(-len(values) // WIDEST)]
    blocks = "".join(LEVELS[int((value - low) / span * (len(LEVELS) - 1))] for value in picked)
    return f"{blocks} {values[0]:.4g} to {values[-1]:.4g}"


def _tag(args: list[str]) -> int:
    parser = _parser(" tag", "Give a run other tags; without a word, none.")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("tags", nargs="*", metavar="WORD")
    given = parser.parse_args(args)
    run = _named(given.run, given.root)
    summary.update(run.folder, tags=given.tags)
    print(f"{given.run}: {' '.join(given.tags) or 'no tags'}")
    return 0


def _remove(args: list[str]) -> int:
    parser = _parser(" rm", "Remove runs, after a question.")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args(args)
    chosen = [_named(name, given.root) for name in given.runs]
    every = find_runs(given.root)
    for run in chosen:
        if reason := _kept_because(run, every):
            raise UserError(f"{run.measured['run']} is {reason}; nothing was removed")
    names = ", ".join(run.measured["run"] for run in chosen)
    print(f"remove {names} with all checkpoints? [y/N] ", end="", flush=True)
    if not given.yes and sys.stdin.readline().strip().lower() not in ("y", "yes"):
        print("nothing was removed")
        return 0
    for run in chosen:
        with lock_run(run.folder):  # which begins to train at this moment is not removed
            shutil.rmtree(run.folder)
    print(f"removed {len(chosen)}")
    return 0


def _kept_because(run: Listed, every: Sequence[Listed]) -> str:
    """Why a run must not be removed; empty if it may."""
    if is_locked(run.folder):
        return "running; stop it first"
    if "best" in (run.measured["tags"] or ()):
        return "tagged `best`; give it other tags first (twinloop runs tag)"
    alike = [other for other in every if other.group == run.group and "val" in other.summary]
    monitor = str(run.summary.get("monitor"))
    if len(alike) > 1 and any(isinstance(other.value(monitor), float) for other in alike):
        (best,) = best_of_each(alike, monitor)
        if best.folder.samefile(run.folder):
            return f"the best of {len(alike)} runs by {monitor}; remove its folder yourself"
    return ""


ACTIONS: dict[str, Callable[[list[str]], int]] = {"diff": _diff, "tag": _tag, "rm": _remove}
