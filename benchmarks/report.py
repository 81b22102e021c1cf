"""Save measurements: results.json, and the tables and figures of README.md."""

import json
import os
import platform
import re
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality import SHARE_OF_PCA
from twinloop.data.spec import DataSpec
from twinloop.files import atomic_write
from twinloop.runs.repository import find_repository

HERE = Path(__file__).parent
MARKERS = "<!-- measured: written by make bench -->", "<!-- end of measured -->"
PACKAGES = (
    *("torch", "lightning", "torchmetrics", "datasets", "tensorboard", "numpy"),
    *("skorch", "pytorch-ignite", "accelerate", "keras", "pillow"),
)
TITLES = {
    "batches": "Batches alone",
    "decoding": "From a folder of images to their pixels",
    "loops": "Loops, the same batches and metrics in all",
    "contestants": "A whole fit, beside other frameworks",
    "start": "Start-up",
    "growth": "How the cost grows",
    "profile_steps": "Where a step's time goes",
    "layers": "Where the network's time goes",
    "options": "A step with and without an option",
    "convolutions": "Convolutions by hand",
    "quality": "What the experiments reach",
}
SMALL_SHARE = 0.01
Row = dict[str, Any]


def circumstances(device: torch.device, threads: int, spec: DataSpec) -> dict[str, Any]:
    """The conditions of a measurement."""
    commit, changed, _ = find_repository()
    return {
        "machine": f"{os.cpu_count()} cores of {_processor()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "data": spec.name,
        "fingerprint": spec.fingerprint,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "commit": f"{commit}+" if changed else commit,
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except FileNotFoundError:
        found = None
    return found[1] if found else platform.processor()


def keep(part: str, about: dict[str, Any], rows: list[Row], folder: Path) -> None:
    """Replace a part's rows by new ones, and print them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[part] = {"about": about, "rows": rows}
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n")
    if part in FIGURES:
        FIGURES[part](rows).savefig(folder / f"{part}.png", dpi=70)
    readme = folder / "README.md"
    text = readme.read_text() if readme.exists() else "\n".join(MARKERS) + "\n"
    before, after = text.partition(MARKERS[0])[0], text.partition(MARKERS[1])[2]
    sections = [section(part, results[part]) for part in TITLES if part in results]
    tables = "\n\n".join([MARKERS[0], *sections, MARKERS[1]])
    with atomic_write(readme) as unfinished:
        unfinished.write_text(before + tables + after)
    print(section(part, results[part]), flush=True)


def section(part: str, result: dict[str, Any]) -> str:
    """A part as Markdown: title, conditions, and tables."""
    about, rows = result["about"], result["rows"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    threads = f"{about['threads']} thread" + "s" * (about["threads"] != 1)
    lines = [
        f"### {TITLES[part]}",
        f"{about['data']}, {about['machine']}, {about['device']}, {threads}, "
        f"commit {(about['commit'] or 'unknown')[:10]}, {about['seconds']} s.",
        FORMS.get(part, _pairs)(rows),
        f"{versions}.",
    ]
    return "\n\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(found: dict[str, float], form: str = ".3g") -> str:
    """`median (lower quartile to upper quartile)`."""
    low, median, high = (format(found[name], form) for name in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _pairs(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        target = (
            f"{row['target']} {'met' if row['met'] else '**missed**'}" if "target" in row else ""
        )
        ratio = f"{spread(row['ratio'], '.3f')} {row['kind']}"
        seconds = [_seconds(row["seconds"][row[side]]) for side in ("what", "against")]
        what, against = row["what"], row["against"]
        on = row.get("experiment", row.get("layer", ""))
        lines.append([on, what, against, ratio, target, *seconds, str(row["n"])])
    times = ["its time", "the other's"]
    return table(["on", "what", "against", "ratio (quartiles)", "target", *times, "n"], lines)


def _seconds(seconds: float) -> str:
    """In a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _growth(rows: list[Row]) -> str:
    data = [
        [
            f"x{row['times']}",
            f"{row['images']:,}",
            f"{row['us_per_image']:.3f}",
            f"{row['own_mb']:,.0f}",
            f"{row['mapped_mb']:,.0f}",
        ]
        for row in rows
        if row["grows"] == "data"
    ]
    head = ["data set", "images", "us per image", "own memory, MB", "mapped files, MB"]
    found = ["![Growth](growth.png)", table(head, data)]
    for grows, at in (("batch", "size"), ("width", "times"), ("processes", "processes")):
        lines = []
        for row in (row for row in rows if row["grows"] == grows):
            added = spread(row["added_ms"]) if "added_ms" in row else ""
            share = f"{row['share']['median']:.1%}" if "share" in row else ""
            step = spread(row["step_ms"])
            lines.append([f"{row[at]:,}", row["loop"], step, added, share, str(row["n"])])
        head = [grows, "loop", "step, ms", "added to the loop by hand, ms", "its share", "n"]
        found.append(table(head, lines))
    for loop, milliseconds in longest_steps(rows).items():
        text = f"{loop} adds less than {SMALL_SHARE:.0%} where a step takes over"
        found.append(f"{text} {milliseconds:.1f} ms.")
    return "\n\n".join(found)


def longest_steps(rows: list[Row]) -> dict[str, float]:
    """Milliseconds of a step from which on a loop's overhead is less than `SMALL_SHARE`.

    Measured at the smallest batch, where the overhead is clearest.
    """
    batches = [row for row in rows if row["grows"] == "batch"]
    smallest = min(row["size"] for row in batches)
    return {
        row["loop"]: max(0.0, row["added_ms"]["median"]) / SMALL_SHARE
        for row in batches
        if row["size"] == smallest and "added_ms" in row
    }


def plot_growth(rows: list[Row]) -> Figure:
    """A plot for each variable."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    data, batch, width, processes = figure.subplots(2, 2).flat
    sizes = [row for row in rows if row["grows"] == "data"]
    images = [row["images"] for row in sizes]
    data.plot(images, [row["own_mb"] for row in sizes], "o-", label="own memory, MB")
    data.plot(images, [row["mapped_mb"] for row in sizes], "o-", label="mapped files, MB")
    data.set(xlabel="images", xscale="log", ylim=(0, None), title="data set")
    data.legend()
    # Set before the curves, because it resets their ticks.
    batch.set(xscale="log", yscale="log", xlabel="images in a batch", title="batch")
    _curves(batch, [row for row in rows if row["grows"] == "batch"], "size")
    width.set(xscale="log", yscale="log", xlabel="times as many channels", title="width")
    _curves(width, [row for row in rows if row["grows"] == "width"], "times")
    processes.set(xlabel="processes, as many images in each", title="processes")
    _curves(processes, [row for row in rows if row["grows"] == "processes"], "processes")
    processes.set_ylim(0, None)
    return figure


def _curves(axes: Axes, rows: list[Row], at: str) -> None:
    for loop in dict.fromkeys(row["loop"] for row in rows):
        own = [row for row in rows if row["loop"] == loop]
        x, y = [row[at] for row in own], [row["step_ms"]["median"] for row in own]
        axes.plot(x, y, "o-", label=loop)
    axes.set_ylabel("ms per step")
    axes.set_xticks(sorted({row[at] for row in rows}), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend()


def _profile(rows: list[Row]) -> str:
    found = []
    for kind, head in (("ms", "ms per step"), ("python_ms", "ms of Python per batch")):
        lines = []
        names: list[str] = []
        for row in (row for row in rows if kind in row):
            names = list(row[kind])
            total = sum(row[kind].values())
            cells = [f"{ms:.2f} ({ms / total:.0%})" for ms in row[kind].values()]
            lines.append([row["experiment"], row["loop"], f"{total:.2f}", *cells])
        found.append(table(["on", "loop", head, *names], lines))
    return "\n\n".join(found)


def _layers(rows: list[Row]) -> str:
    lines = []
    for name in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == name]
        whole = sum(row["seconds"] for row in own)
        limit = sum(row["of_peak"] * row["seconds"] for row in own)
        own.append({"layer": "sum", "kind": "", "seconds": whole, "of_peak": limit / whole})
        for row in own:
            ms, share = f"{row['seconds'] * 1e3:.2f}", f"{row['seconds'] / whole:.0%}"
            lines.append([name, row["layer"], row["kind"], ms, share, f"{row['of_peak']:.0%}"])
    return table(["on", "layer", "kind", "ms", "of the step", "of the peak"], lines)


def _quality(rows: list[Row]) -> str:
    codes = [row for row in rows if "code_size" in row]
    lines = [
        [
            *(str(row["code_size"]), str(row["epochs"]), f"{row['mse']:.4f}"),
            f"{row['pca_mse']:.4f}",
            f"{row['share']:.2f} {'met' if row['met'] else '**missed**'}",
            *(f"{row['seconds']:,}", str(row["seed"]), (row["commit"] or "unknown")[:10]),
        ]
        for row in codes
    ]
    head = [
        "code dimension",
        "epochs",
        "test MSE",
        "PCA's",
        f"share, to be under {SHARE_OF_PCA}",
    ]
    found = ["![MSE by the dimension of the latent code](quality.png)"]
    found.append(table([*head, "seconds", "seed", "commit"], lines))
    lines = []
    races = [row for row in rows if "accuracy" in row]
    for name in dict.fromkeys(row["experiment"] for row in races):
        runs = [row for row in races if row["experiment"] == name]
        accuracies = [row["accuracy"] for row in runs]
        mean = statistics.mean(accuracies)
        deviation = f"{statistics.stdev(accuracies):.4f}" if len(runs) > 1 else ""
        met = "met" if mean > runs[0]["to_beat"] else "**missed**"
        seeds = ", ".join(f"{row['seed']}: {row['accuracy']:.4f}" for row in runs)
        target = f"> {runs[0]['to_beat']} {met}"
        seconds = f"{statistics.mean(row['seconds'] for row in runs):,.0f}"
        lines.append([name, f"{mean:.4f}", deviation, target, seeds, seconds, str(len(runs))])
    head = ["experiment", "test accuracy, mean", "deviation", "target", "by seed", "seconds", "n"]
    found.append(table(head, lines))
    return "\n\n".join(found)


def plot_quality(rows: list[Row]) -> Figure:
    """MSE by the dimension of the code, beside that of PCA."""
    codes = [row for row in rows if "code_size" in row]
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes = [row["code_size"] for row in codes]
    axes.plot(sizes, [row["pca_mse"] for row in codes], "o-", label="PCA")
    limit = [SHARE_OF_PCA * row["pca_mse"] for row in codes]
    axes.plot(sizes, limit, "--", label=f"{SHARE_OF_PCA} of PCA")
    axes.plot(sizes, [row["mse"] for row in codes], "o-", label="autoencoder")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="dimension of the latent code",
        ylabel="test MSE per pixel",
    )
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend()
    return figure


FIGURES = {"growth": plot_growth, "quality": plot_quality}
FORMS = {"growth": _growth, "profile_steps": _profile, "layers": _layers, "quality": _quality}
