"""What a sweep has found: a table in the terminal, best.yaml, and a page of Optuna's plots."""

import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from optuna.trial import TrialState

from twinloop.errors import UserError
from twinloop.files import atomic_write
from twinloop.sweeps.space import shown
from twinloop.sweeps.study import Study

PLOTS = {
    "plot_optimization_history": "The value of each trial, and the best so far",
    "plot_intermediate_values": "The metric by epoch; a pruned trial ends early",
    "plot_param_importances": "How much of the spread of the values each setting explains",
    "plot_slice": "The value over each setting",
    "plot_parallel_coordinate": "All settings of each trial",
    "plot_timeline": "When each trial ran",
}
"""Optuna's plots on the page, and their captions."""
WIDE = ("plot_slice", "plot_parallel_coordinate")
STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
SHOWN = 20
"""The most trials in the table of the terminal; the page has all."""
WIDTH = 160
"""Columns of the table where it is not printed to a terminal."""


def write_report(study: Study, experiment: str) -> None:
    """Print the trials, the best first, and write best.yaml and sweep.html to the sweep's folder.

    While other processes still train it prints how many, and the last of them writes.

    Raises:
        UserError: no trial has ended well.
    """
    trials, folder = study.study.get_trials(deepcopy=False), study.folder
    if running := sum(trial.state == TrialState.RUNNING for trial in trials):
        print(
            f"{running} trials still run in other processes, the last of which writes the results"
        )
        return
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        why = next((trial.user_attrs["failed"] for trial in trials if trial.user_attrs), "pruned")
        raise UserError(f"{folder}: none of {len(trials)} trials has ended well; the first: {why}")
    best = study.study.best_trial
    rows = _rows(trials, study, best.number)
    title = f"{experiment}: {study.sweep.metric} of {len(trials)} trials, {len(done)} finished"
    _show(rows, title)
    config = folder / f"trial-{best.number}" / "config.yaml"
    if config.is_file():  # else it is on the machine that trained it
        head = f"# trial {best.number} of {folder}: {study.sweep.metric} {best.value:.6g}\n"
        _write(folder / "best.yaml", head + config.read_text(encoding="utf-8"))
        print(f"the best settings, for fit --config: {folder / 'best.yaml'}")
    _write(folder / "sweep.html", _page(study, title, rows))
    print(f"page: {folder / 'sweep.html'}\nin TensorBoard: tensorboard --logdir {folder}")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _rows(trials: list[Any], study: Study, best: int) -> list[list[str]]:
    """The head of the table, and a row for each trial: the best first, failed ones last."""
    keys = [setting.key for setting in study.sweep.settings]
    sign = 1 if study.sweep.direction == "minimize" else -1
    order = list(STATES)

    def place(trial: Any) -> tuple[float, float, int]:
        value = 0.0 if trial.value is None else sign * trial.value
        return order.index(trial.state), value, trial.number

    names = [key.rpartition(".")[2] for key in keys]
    names = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    rows = [["trial", "state", str(study.sweep.metric), "epochs", "seconds", *names]]
    for trial in sorted(trials, key=place):
        rows.append(
            [
                f"{trial.number}{' *' * (trial.number == best)}",
                trial.user_attrs.get("failed", STATES[trial.state]),
                "" if trial.value is None else f"{trial.value:.4f}",
                str(max(trial.intermediate_values, default=0)),
                f"{trial.duration.total_seconds():.1f}" if trial.duration else "",
                *(shown(trial.params[key]) if key in trial.params else "" for key in keys),
            ]
        )
    return rows


def _show(rows: list[list[str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    head, *body = rows
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in body[:SHOWN]:
        table.add_row(*row)
    console = Console(width=None if os.isatty(1) else WIDTH, markup=False, emoji=False)
    console.print(table)
    if len(body) > SHOWN:
        console.print(f"and {len(body) - SHOWN} more trials, on the page", highlight=False)


def _page(study: Study, title: str, rows: list[list[str]]) -> str:
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    figures = list(_figures(study.study))
    return pages.get_template("page.html").render(title=title, rows=rows, figures=figures)


def _figures(study: Any) -> Iterator[tuple[str, str]]:
    """The caption of each plot that these trials allow, and the plot as SVG."""
    import matplotlib.pyplot as plt

    before = plt.get_backend()
    plt.switch_backend("agg")  # no window, wherever this runs
    try:
        for name, caption in PLOTS.items():
            with warnings.catch_warnings(), plt.rc_context({"svg.hashsalt": name}):
                warnings.simplefilter("ignore")  # these plots are experimental
                try:
                    axes = getattr(optuna.visualization.matplotlib, name)(study)
                except (ValueError, RuntimeError):  # of fewer trials, or of equal values
                    continue
                figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
                figure.set_size_inches(12 if name in WIDE else 8, 4.5)
                for axis in figure.axes if name == WIDE[0] else ():
                    axis.tick_params(axis="x", rotation=20)  # names of classes are long
                yield caption, _svg(figure)
                plt.close("all")
    finally:
        plt.switch_backend(before)


def _svg(figure: Any) -> str:
    """A figure as an element of HTML: no declaration, no address."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight")
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text[text.index("<svg") :]).replace(
        "xlink:href", "href"
    )
