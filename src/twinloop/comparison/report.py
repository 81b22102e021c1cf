"""A comparison for the eye: a table in the terminal, and one page that needs no network."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from twinloop.learner.callbacks.trace import Traced
from twinloop.loops.trace import COUNTERPARTS
from twinloop.runs.diary import Diary, read_diary, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Costs = Mapping[str, Mapping[str, Sequence[float]]]
"""By what was measured and by loop: a number for each seed."""

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5d6877; --line: #d9dee5; --good: #14703a;
        --bad: #b3261e; --lightning: #7b3fd1; --homemade: #c2600a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; background: white; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 44rem; } .soft { color: var(--soft); }
.verdict { border-left: .3rem solid var(--good); padding: .5rem .8rem; margin: 1rem 0;
           background: #f0f7f2; overflow-wrap: anywhere; }
.verdict.bad { border-color: var(--bad); background: #fbeeed; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.lightning, span.lightning { color: var(--lightning); }
th.homemade, span.homemade { color: var(--homemade); }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
.both { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
@media (max-width: 34rem) { table { font-size: .78rem; } th, td { padding: .25rem .3rem; }
       td.number, th.number { white-space: normal; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; } h2, img, tr
       { break-inside: avoid; } .wide { overflow: visible; } }
"""


def show(costs: Costs) -> None:
    """Print the costs of both loops, and how they stand to each other."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "lightning", "homemade", "homemade / lightning", title_justify="left")
    for name, (lightning, homemade) in _rows(costs):
        table.add_row(name, _spread(lightning), _spread(homemade), _ratio(lightning, homemade))
    Console().print(table)


def page(comparison: Mapping[str, Any], lightning: Path, homemade: Path) -> str:
    """The page of a comparison, as HTML in one file.

    Args:
        comparison: What comparison.json has.
        lightning: The recorded run of Lightning's loop.
        homemade: The recorded run of the homemade loop.
    """
    runs = {"lightning": lightning, "homemade": homemade}
    diaries = {loop: read_diary(run) for loop, run in runs.items()}
    results = next(iter(comparison["results"].values()))
    title = f"{comparison['experiment']} on {results['dataset']['name']}, in both loops"
    verdicts = "".join(
        f'<p class="verdict{"" if line.startswith("identical") else " bad"}">'
        f"<b>seed {escape(seed)}</b> {escape(line)}</p>"
        for seed, line in comparison["verdicts"].items()
    )
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in results["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="soft">{escape(results["machine"])}, {escape(results["device"])}; {versions}</p>
<p><code>{escape(comparison["command"])}</code></p>
{verdicts}
<h2>What it cost</h2>
<div class="wide">{_costs_table(comparison["costs"])}</div>
<h2>Curves</h2>
<p>Both loops on one axis, and below it the difference of the two.</p>
{_picture(_curves(lightning, homemade), "loss and its difference by step")}
{_pictures(runs)}
<h2>Who calls what, and when</h2>
<p>Lightning's hooks and the Learner's events as they were recorded in these runs, side by side.
A line with one side empty has no counterpart in the other loop.</p>
{_orders(diaries)}
<h2>Time by hook</h2>
<p>From each hook or event to the next one, summed over the run, with what the callbacks do at it;
the model's own time falls to the event before it.</p>
<div class="both">{"".join(_times(loop, diary) for loop, diary in diaries.items())}</div>
</body></html>
"""


def _rows(costs: Costs) -> Iterable[tuple[str, tuple[Sequence[float], Sequence[float]]]]:
    return ((name, (cost["lightning"], cost["homemade"])) for name, cost in costs.items())


def _spread(values: Sequence[float]) -> str:
    """The median, and where there are several numbers how far they go."""
    middle = f"{median(values):.4g}"
    return f"{middle} ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else middle


def _ratio(lightning: Sequence[float], homemade: Sequence[float]) -> str:
    pairs = [b / a for a, b in zip(lightning, homemade, strict=True) if a and math.isfinite(a)]
    return f"{median(pairs):.3f}" if pairs else ""


def _costs_table(costs: Costs) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{_spread(lightning)}</td>'
        f'<td class="number">{_spread(homemade)}</td>'
        f'<td class="number">{_ratio(lightning, homemade)}</td></tr>'
        for name, (lightning, homemade) in _rows(costs)
    )
    return (
        '<table><tr><th></th><th class="number lightning">lightning</th>'
        f'<th class="number homemade">homemade</th><th class="number">ratio</th></tr>{rows}</table>'
    )


def _curves(lightning: Path, homemade: Path) -> "Figure":
    """The loss of every step in both loops, and the difference."""
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
    shared = min(map(len, losses))
    below.plot([b - a for a, b in zip(losses[0][:shared], losses[1][:shared], strict=True)])
    below.set(ylabel="difference", xlabel="batch")
    for axis in (top, below):
        axis.grid(alpha=0.3)
    return figure


def _picture(figure: "Figure", what: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    return _embedded(buffer.getvalue(), what)


def _pictures(runs: Mapping[str, Path]) -> str:
    """What both have drawn: reconstructions, or the confusion matrix."""
    parts = []
    for name in ("reconstructions.png", "confusion.png"):
        found = {loop: run / name for loop, run in runs.items() if (run / name).is_file()}
        parts += [
            f'<figure><figcaption><span class="{loop}">{loop}</span></figcaption>'
            f"{_embedded(path.read_bytes(), f'{name} of the {loop} loop')}</figure>"
            for loop, path in found.items()
        ]
    return f'<h2>What they have learnt</h2><div class="both">{"".join(parts)}</div>'


def _embedded(png: bytes, what: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'


def _orders(diaries: Mapping[str, Diary]) -> str:
    """Hooks beside events: a step, then an epoch and the fit with their repetitions left out."""
    lists = {loop: diary.events for loop, diary in diaries.items()}
    step = {loop: _first_step(events) for loop, events in lists.items()}
    outline = {loop: _outline(events) for loop, events in lists.items()}
    return (
        f"<h3>One step</h3>{_aligned(step['lightning'], step['homemade'])}"
        f"<h3>An epoch and the fit, each run of equal batches once</h3>"
        f"{_aligned(outline['lightning'], outline['homemade'])}"
    )


def _name(event: Traced) -> str:
    return event.event if event.event.endswith("_fit") else f"{event.stage} {event.event}"


def _first_step(events: Sequence[Traced]) -> list[Traced]:
    """From the start of the first batch of train to the start of what follows it."""
    starts = ("on_train_batch_start", "before_batch")
    first = next(i for i, event in enumerate(events) if event.event in starts)
    ends = ("on_train_batch_end", "cleanup_batch")
    last = next(i for i in range(first, len(events)) if events[i].event in ends)
    return list(events[first : last + 1])


def _outline(events: Sequence[Traced]) -> list[Traced]:
    """The first epoch with one batch of each kind, and what is around the epochs."""
    found: list[Traced] = []
    seen: set[tuple[str, str]] = set()
    for event in events:
        if (event.stage, event.event) not in seen:
            found.append(event)
        seen.add((event.stage, event.event))
    return found


def _aligned(hooks: Sequence[Traced], events: Sequence[Traced]) -> str:
    """Two lists in two columns, counterparts in one line."""
    rows: list[tuple[str, str]] = []
    left = list(events)
    for hook in hooks:
        partner = COUNTERPARTS[hook.event]
        names = [_name(event) for event in left]
        if partner in names:
            place = names.index(partner)
            rows += [("", name) for name in names[:place]]
            rows.append((hook.event, partner))
            left = left[place + 1 :]
        else:
            rows.append((hook.event, ""))
    rows += [("", _name(event)) for event in left]
    lines = "".join(
        f"<tr><td><code>{escape(a)}</code></td><td><code>{escape(b)}</code></td></tr>"
        for a, b in rows
    )
    return (
        '<div class="wide"><table><tr><th class="lightning">lightning</th>'
        f'<th class="homemade">homemade</th></tr>{lines}</table></div>'
    )


def _times(loop: str, diary: Diary) -> str:
    slowest = sorted(diary.by_event().items(), key=lambda item: -item[1][1])[:12]
    rows = "".join(
        f'<tr><td><code>{escape(name)}</code></td><td class="number">{count:,}</td>'
        f'<td class="number">{seconds:.3f} s</td>'
        f'<td class="number">{seconds / count * 1e6:,.0f} µs</td></tr>'
        for name, (count, seconds) in slowest
    )
    return (
        f'<div class="wide"><table><tr><th class="{loop}">{loop}</th><th class="number">times</th>'
        f'<th class="number">all</th><th class="number">each</th></tr>{rows}</table></div>'
    )
