"""`python -m twinloop parity`: run every setting of the proof in both loops, and compare.

`run` fits by the command line's own entry in this process; `compare` says where two fits of the
same settings differ, or are not refused as expected.
"""

import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from twinloop import figures
from twinloop.cli import main as twinloop
from twinloop.comparison.matrix import RUN, Expected, Settings, nested
from twinloop.comparison.outcome import Outcome, differences, read_outcome
from twinloop.comparison.parity import combinations, experiments, table
from twinloop.errors import Parser
from twinloop.loops import Loop

COMBINATIONS = 12


def main(args: list[str]) -> int:
    """Run every experiment and a few combinations in both loops, and print the table of results.

    Returns:
        The exit status: 0 if everything is as expected, else 1.
    """
    Parser("twinloop parity", allow_abbrev=False).parse_args(args)
    from rich.progress import track

    # Networks this small gain nothing from a second thread, which ddp's launcher would use.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:

        def verdict(settings: Settings, expected: Expected) -> str:
            found = compare(settings, Path(folder) / "cell", expected)
            return "exact" if not found else f"{len(found)} differences, first {found[0]}"

        results = {
            (row, value): verdict(settings, expected)
            for row, value, settings, expected in track(
                list(experiments()), "cells", transient=True
            )
        }
        sample = [
            verdict(settings, "same or refused")
            for settings in track(combinations(COMBINATIONS), "combinations", transient=True)
        ]
    print(table(results))
    print(f"\n{sample.count('exact')} of {len(sample)} random combinations of values are exact.")
    return 0 if {*results.values(), *sample} == {"exact"} else 1


def compare(settings: Settings, folder: Path, expected: Expected = "same") -> list[str]:
    """What is not as expected when both loops are given the same settings; empty if nothing."""
    other = run(settings, "homemade", folder)
    if expected == "not in one process":
        return _refusal_errors(other)
    one = run(settings, "lightning", folder)
    trains = expected == "same"
    if expected == "same or refused":
        expected = "refused" if one.status == 2 else "same"
    if expected == "refused":
        return _refusal_errors(one) + differences(one, other)
    untrained = [] if one.status == 0 else [f"Lightning: status {one.status}, {one.errors[-1:]}"]
    recorded = settings["record"] == "all" and not settings.get("trainer.fast_dev_run")
    if trains and recorded and not one.steps:
        untrained.append("Lightning: no step was taken")
    if expected == "homemade refuses":
        return untrained + _refusal_errors(other)
    return untrained + differences(one, other)


def _refusal_errors(outcome: Outcome) -> list[str]:
    """What is wrong with a refusal: it must be one line, of status 2, and leave no files."""
    found = []
    if outcome.status != 2:
        found.append(f"status {outcome.status} in place of a refusal")
    if len(outcome.errors) != 1 or not outcome.errors[0].startswith("error: "):
        found.append(f"not one line of error: {outcome.errors[-1:]}")
    return found + [f"{key} was written" for key in outcome.found if key.startswith("files/")]


def run(settings: Settings, loop: Loop, folder: Path, *, draws: bool = False) -> Outcome:
    """Fit an experiment of these settings in `folder`/`loop`, with or without its figures."""
    place = folder / loop
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    config = folder / "experiment.yaml"
    config.write_text(yaml.safe_dump(nested(_with_folder(settings, str(place)))))
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        _restored(),
        _without_figures(not draws),
        _logged_to(stderr),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        status = twinloop(["fit", "--config", str(config), "--loop", loop, "--run", str(place)])
        random = torch.get_rng_state()
    printed, errors = (
        stream.getvalue().replace(str(place), RUN).replace(str(config), "FILE").splitlines()
        for stream in (stdout, stderr)
    )
    return read_outcome(place, status, printed, errors, random)


def _with_folder(value: Any, place: str) -> Any:
    """Settings with the folder of the run in place of `RUN`."""
    if isinstance(value, dict):
        return {key: _with_folder(part, place) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_folder(part, place) for part in value]
    return value.replace(RUN, place) if isinstance(value, str) and value.startswith(RUN) else value


@contextmanager
def _restored() -> Iterator[None]:
    """Restore environment variables and torch's switches afterwards, and silence warnings."""
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    torch.manual_seed(0)  # for an experiment whose seed_everything is false
    try:
        with mock.patch.dict(os.environ), warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


@contextmanager
def _logged_to(stream: io.StringIO) -> Iterator[None]:
    """Redirect Lightning's log to `stream`: its handlers keep the stderr of its import."""
    with ExitStack() as patches:
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    patches.enter_context(mock.patch.object(handler, "stream", stream))
        yield


@contextmanager
def _without_figures(skip: bool) -> Iterator[None]:
    """Skip the figures, which take the most time and are drawn by one function for both loops."""

    def touch(_: Any, path: Path) -> None:
        path.touch()

    with ExitStack() as patches:
        if skip:
            for name in ("curves", "reconstructions", "confusion"):
                patches.enter_context(mock.patch.object(figures, name))
            patches.enter_context(mock.patch.object(figures, "save", touch))
        yield
