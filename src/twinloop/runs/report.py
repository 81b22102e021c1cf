"""The report of a run, `report.html`: one page that needs no network."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twinloop.files import atomic_write

WIDTH, HEIGHT = 320, 160
"""The size of a curve's plane, in units of SVG."""
FIGURES = {"reconstructions.png": "Reconstructions", "confusion.png": "Confusion matrix"}


def write_report(
    run: Path, results: Mapping[str, Any], summary: Mapping[str, Any], units: Mapping[str, str]
) -> None:
    """Write the page of a finished run, with the figures that are in its folder.

    Args:
        run: The folder of the run.
        results: The content of its results.json.
        summary: The content of its run.json.
        units: The units of metrics by name.

    Raises:
        OSError: it cannot be written.
    """
    # Where a run is not wanted to end with a page, as in a benchmark, its template is not either.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    pages.filters["number"] = _number
    text = pages.get_template("report.html").render(
        results=results,
        summary=summary,
        units=units,
        metrics=[
            name
            for name in {**results["val"], **results["test"]}
            if not isinstance(results["val"].get(name, results["test"].get(name)), dict)
        ],
        charts=_charts(results["history"]),
        figures=[
            (title, base64.b64encode((run / name).read_bytes()).decode())
            for name, title in FIGURES.items()
            if (run / name).is_file()
        ],
        size=(WIDTH, HEIGHT),
    )
    with atomic_write(run / "report.html") as part:
        part.write_text(text, encoding="utf-8")


def _charts(history: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """For each metric its range, and the points of train and val in the plane of the chart."""
    names = dict.fromkeys(key.partition("/")[2] for row in history for key in row if "/" in key)
    charts = []
    for name in names:
        values = {
            stage: [
                (row["epoch"], row[f"{stage}/{name}"])
                for row in history
                if f"{stage}/{name}" in row
            ]
            for stage in ("train", "val")
        }
        finite = {s: [p for p in points if math.isfinite(p[1])] for s, points in values.items()}
        heights = [height for points in finite.values() for _, height in points]
        if heights:
            low, high = min(heights), max(heights)
            lines = {s: _placed(points, len(history), low, high) for s, points in finite.items()}
            charts.append({"name": name, "low": low, "high": high, "lines": lines})
    return charts


def _placed(
    points: Sequence[tuple[float, float]], epochs: int, low: float, high: float
) -> list[tuple[float, float]]:
    """Epochs from 1 and values from `low` to `high`, as coordinates of SVG."""
    return [
        (
            round(WIDTH * (epoch - 1) / max(epochs - 1, 1), 1),
            round(HEIGHT * (high - value) / ((high - low) or 1), 1),
        )
        for epoch, value in points
    ]


def _number(value: Any) -> str:
    """A value of any type for a reader."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int and value >= 10_000 else str(value)
