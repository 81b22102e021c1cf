"""The report of a comparison: a table in the terminal, and one HTML file that needs no network."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from twinloop.learner.callbacks.trace import Traced
from twinloop.loops.trace import COUNTERPARTS
from twinloop.runs.timings import read_record, read_timings

Costs = Mapping[str, Mapping[str, Sequence[float]]]
"""By name and loop: a value for each seed."""

SLOWEST = 12
"""How many hooks or events of each loop are listed with their times."""


def show(costs: Costs) -> None:
    """Print the costs of both loops, and their ratio."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "lightning", "homemade", "homemade / lightning", title_justify="left")
    for row in _rows(costs):
        table.add_row(*row)
    Console().print(table)


def page(comparison: Mapping[str, Any], lightning: Path, homemade: Path) -> str:
    """The HTML page of the content of comparison.json, with the recorded run of each loop."""
    runs = {"lightning": lightning, "homemade": homemade}
    timings = {loop: read_timings(run) for loop, run in runs.items()}
    hooks, events = (one.events for one in timings.values())
    results = next(iter(comparison["results"].values()))
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return pages.get_template("report.html").render(
        title=f"{comparison['experiment']} on {results['dataset']['name']}, in both loops",
        results=results,
        command=comparison["command"],
        verdicts=comparison["verdicts"],
        costs=_rows(comparison["costs"]),
        curves=_encoded(_curves(lightning, homemade)),
        figures=[
            (loop, name, _encoded((run / name).read_bytes()))
            for name in ("reconstructions.png", "confusion.png")
            for loop, run in runs.items()
            if (run / name).is_file()
        ],
        step=_aligned(_first_step(hooks), _first_step(events)),
        outline=_aligned(_outline(hooks), _outline(events)),
        slowest={
            loop: sorted(one.by_event().items(), key=lambda item: -item[1][1])[:SLOWEST]
            for loop, one in timings.items()
        },
    )


def _rows(costs: Costs) -> list[tuple[str, str, str, str]]:
    """The name of each cost, its values in both loops, and their ratio."""
    return [
        (name, _spread(cost["lightning"]), _spread(cost["homemade"]), _ratio(**cost))
        for name, cost in costs.items()
    ]


def _spread(values: Sequence[float]) -> str:
    """The median, and the range of several values."""
    middle = f"{median(values):.4g}"
    return f"{middle} ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else middle


def _ratio(lightning: Sequence[float], homemade: Sequence[float]) -> str:
    """The median over the seeds of homemade / lightning."""
    ratios = [b / a for a, b in zip(lightning, homemade, strict=True) if a and math.isfinite(a)]
    return f"{median(ratios):.3f}" if ratios else ""


def _curves(lightning: Path, homemade: Path) -> bytes:
    """The loss of every step in both loops, and the difference, as PNG."""
    from matplotlib.figure import Figure

    losses = [
        [float(step["loss"]) for step in read_record(run).steps if "loss" in step]
        for run in (lightning, homemade)
    ]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(losses[0], color="#7b3fd1", linewidth=3, alpha=0.45, label="lightning")
    top.plot(losses[1], color="#c2600a", linewidth=1, label="homemade")
    top.set(ylabel="loss of a batch")
    top.legend()
    # Runs that differ may also have different lengths.
    below.plot([b - a for a, b in zip(*losses, strict=False)])
    below.set(ylabel="difference", xlabel="batch")
    for axis in (top, below):
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    return buffer.getvalue()


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _name(event: Traced) -> str:
    return event.event if event.event.endswith("_fit") else f"{event.stage} {event.event}"


def _first_step(events: Sequence[Traced]) -> list[Traced]:
    """The events of the first training batch."""
    starts, ends = ("on_train_batch_start", "before_batch"), ("on_train_batch_end", "cleanup_batch")
    first = next(i for i, event in enumerate(events) if event.event in starts)
    last = next(i for i in range(first, len(events)) if events[i].event in ends)
    return list(events[first : last + 1])


def _outline(events: Sequence[Traced]) -> list[Traced]:
    """The first event of each name and stage."""
    first: dict[tuple[str, str], Traced] = {}
    for event in events:
        first.setdefault((event.stage, event.event), event)
    return list(first.values())


def _aligned(hooks: Sequence[Traced], events: Sequence[Traced]) -> list[tuple[str, str]]:
    """Both lists as rows of two columns, with counterparts in the same row."""
    rows: list[tuple[str, str]] = []
    left = [_name(event) for event in events]
    for hook in hooks:
        partner = COUNTERPARTS[hook.event]
        if partner in left:
            place = left.index(partner)
            rows += [("", name) for name in left[:place]]
            rows.append((hook.event, partner))
            left = left[place + 1 :]
        else:
            rows.append((hook.event, ""))
    return rows + [("", name) for name in left]
