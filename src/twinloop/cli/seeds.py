"""`fit --seeds N`: runs that differ in the seed alone, and the spread of what came out."""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from twinloop import figures
from twinloop.cli.experiment import files_of, seeds_from
from twinloop.cli.parser import Experiment
from twinloop.errors import UserError
from twinloop.files import as_json, atomic_write
from twinloop.runs.folder import numbered_folder

FitIn = Callable[[Path, list[str]], dict[str, Any]]
"""Fits in a folder, or resumes there, and returns the results."""


def fit_seeds(experiment: Experiment, args: list[str], processes: int, fit_in: FitIn) -> int:
    """Train the experiment with each of `seeds`, and write seeds.json and seeds.png.

    A run that an interrupted series has finished is not trained again.

    Raises:
        UserError: options of one run alone, or several processes.
        Stopped: a signal has stopped the run of a seed, which is saved.
    """
    config = experiment.config
    resume = str(config.ckpt_path or "")
    if processes > 1:
        raise UserError("--seeds trains in one process; start runs of several seed by seed")
    if resume not in ("", "last") or config.run_folder or experiment.flags["fast_dev_run"]:
        raise UserError(
            "--seeds has run folders of its own and compares results: unset --run_folder and "
            "trainer.fast_dev_run; --ckpt_path can only be last"
        )
    seeds = seeds_from(config.seed_everything, config.seeds, files_of(config))
    runs = experiment.logs / experiment.name
    folder = numbered_folder(runs, "seeds", resume=bool(resume))
    results = {}
    for seed in seeds:
        print(f"\nseed {seed}", flush=True)
        own = [*args, "--seeds=1", f"--seed_everything={seed}"]
        results[seed] = fit_in(folder / f"seed-{seed}", own)
    write_spread(folder, experiment.name, results)
    return 0


def write_spread(folder: Path, experiment: str, results: dict[int, dict[str, Any]]) -> None:
    """Print mean and standard deviation of each metric over the seeds, and write them."""
    found = spread(results)
    first = next(iter(results.values()))
    content = {
        **{name: first[name] for name in ("experiment", "loop", "dataset")},
        **{"seeds": list(results), "n": len(results), "metrics": found},
        "runs": [f"seed-{seed}" for seed in results],
    }
    with atomic_write(folder / "seeds.json") as part:
        part.write_text(as_json(content))
    title = f"{experiment} on {first['dataset']['name']}, n = {len(results)} seeds"
    histories = [result["history"] for result in results.values()]
    figures.save(figures.seeds(histories, title), folder / "seeds.png")
    show(found, title, folder)


def spread(results: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By metric of val and test: mean, sample standard deviation, n, and the value of each seed.

    A metric that any of the runs has not, as one that is not finite, is left out.
    """
    found = {}
    for stage in ("val", "test"):
        for name in next(iter(results.values()))[stage]:
            values = [result[stage].get(name) for result in results.values()]
            if all(isinstance(value, float) for value in values):
                found[f"{stage}/{name}"] = {
                    **{"mean": mean(values), "std": stdev(values), "n": len(values)},
                    "values": values,
                }
    return found


def show(found: dict[str, dict[str, Any]], title: str, folder: Path) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "mean ± std", "smallest", "largest", "n", title=title, title_justify="left")
    for name, one in found.items():
        ends = (f"{end:.4f}" for end in (min(one["values"]), max(one["values"])))
        table.add_row(name, f"{one['mean']:.4f} ± {one['std']:.4f}", *ends, str(one["n"]))
    console = Console(soft_wrap=not os.isatty(1), markup=False, emoji=False)
    console.print(table)
    console.print(f"seeds.json, seeds.png and the runs: {folder}", highlight=False)
