"""What one fit leaves: its exit status, its words, and every number in its folder.

`run` fits by the command line's own entry, in this process; `differences` says where two fits
differ. Nothing is left out but times, the names of the loop and the folder, and the figures.
"""

import io
import json
import logging
import os
import re
import shutil
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import yaml
from torch import Tensor

from twinloop import figures
from twinloop.cli import main
from twinloop.cli.experiment import LOADER
from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.matrix import RUN, Settings
from twinloop.loops.trace import comparable, translated
from twinloop.runs.timings import read_record, read_timings

Loop = Literal["lightning", "homemade"]
LOOPS: tuple[Loop, Loop] = ("lightning", "homemade")
UNTOLD = (
    *("seconds", "loop", "trained_by", "machine", "versions", "commit"),
    "stopping_reason_message",
)
"""Keys that are no result of the training; Lightning has a sentence for the reason of a stop."""


@dataclass(frozen=True)
class Outcome:
    """What a fit has left, and what it has said."""

    status: int
    errors: list[str]
    """Its lines on stderr, with RUN for its folder."""
    found: dict[str, Any]
    """Tensors, numbers and words, by where they were, in the order in which they came about."""

    @property
    def steps(self) -> int:
        """How many steps of the optimiser are in its record."""
        return sum(key.endswith("/gradient norm") for key in self.found)

    @property
    def has_moved(self) -> bool:
        """Whether any weight is another one than at the start; that of an average may not be."""
        return any(
            not torch.equal(value, self.found[key])
            for start, value in self.found.items()
            for end in ("record/state/", "last.ckpt/current_model_state/")
            if start.startswith("record/start/")
            and (key := start.replace("record/start/", end)) in self.found
        )


def run(settings: Settings, loop: Loop, folder: Path, *, draws: bool = False) -> Outcome:
    """Fit an experiment of these settings in a folder of `folder`, with or without its figures."""
    place = folder / loop
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    config = folder / "experiment.yaml"
    config.write_text(yaml.safe_dump(nested(_named(settings, str(place)))))
    printed, said = io.StringIO(), io.StringIO()
    with (
        _unchanged(),
        _quick(draws),
        _logged_to(said),
        redirect_stdout(printed),
        redirect_stderr(said),
    ):
        status = main(["fit", "--config", str(config), "--loop", loop, "--run", str(place)])
        random = torch.get_rng_state()

    def words(stream: io.StringIO) -> list[str]:
        text = stream.getvalue().replace(str(place), RUN).replace(str(config), "FILE")
        return text.splitlines()

    found: dict[str, Any] = dict(_left(place))
    found |= {f"printed/{n}": _timeless(line) for n, line in enumerate(words(printed))}
    return Outcome(status, words(said), found | {"random state": random})


def differences(one: Outcome, other: Outcome) -> list[str]:
    """Where two outcomes differ, in the order in which it came about; empty if nowhere.

    Raises:
        AssertionError: steps were taken and the weights have not moved, which would prove nothing.
    """
    for outcome in (one, other):
        assert not outcome.steps or outcome.has_moved
    found = []
    if one.status != other.status:
        found.append(f"status: {one.status} against {other.status}")
    if one.errors != other.errors:
        found.append(f"stderr: {one.errors[-1:]} against {other.errors[-1:]}")
    groups: dict[str, list[str]] = {}  # what only the second has stands among its like
    for key in {**one.found, **other.found}:
        groups.setdefault("/".join(key.split("/")[:2]), []).append(key)
    for key in chain.from_iterable(groups.values()):
        if key not in other.found:
            found.append(f"{key}: only the first has it, {_short(one.found[key])}")
        elif key not in one.found:
            found.append(f"{key}: only the second has it, {_short(other.found[key])}")
        else:
            found += _unequal(key, one.found[key], other.found[key])
    return found


def _unequal(key: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return compare_tensors(key, {"": one}, {"": other})
    # Floats by their bits: equal NaNs are the same, zero and minus zero are not.
    a, b = (struct.pack("d", v) if isinstance(v, float) else v for v in (one, other))
    if type(one) is type(other) and a == b:
        return []
    return [f"{key}: {_short(one)} against {_short(other)}"]


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 100 else f"{text[:100]}..."


def _left(place: Path) -> Iterator[tuple[str, Any]]:
    """Everything in the folder of a run, by where it is."""
    if (place / "record.pt").exists():
        record = asdict(read_record(place))
        yield from _leaves({"start": record.pop("start")} | record, "record", place)
    if (place / "trace.json").exists():
        timings = read_timings(place)
        lightnings = any(event.event.startswith("on_") for event in timings.events)
        events = translated(timings.events) if lightnings else comparable(timings.events)
        yield from _leaves(events, "trace", place)
        yield "trace/forwards and steps", (len(timings.forward), len(timings.stepped))
    for path in sorted(place.glob("checkpoints/*.ckpt")):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        yield from _leaves(checkpoint, path.name, place)
    if (place / "results.json").exists():
        results = json.loads((place / "results.json").read_text())
        yield from _leaves(results, "results", place)
    if (place / "config.yaml").exists():
        config = yaml.load((place / "config.yaml").read_text(), LOADER)
        yield from _leaves(config, "config", place)
    for path in sorted(place.glob("events.*")):
        yield from _events(path)
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.startswith("events."):
            name = str(path.relative_to(place))
            read_above = name in ("record.pt", "trace.json", "results.json", "config.yaml")
            yield f"files/{name}", not (read_above or path.suffix == ".ckpt") and path.read_bytes()


def _leaves(value: Any, name: str, place: Path) -> Iterator[tuple[str, Any]]:
    """The parts of a nested value that have no parts, by their path in it."""
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            if key not in UNTOLD:
                yield from _leaves(part, f"{name}/{key}".replace(str(place), RUN), place)
        if not value:
            yield name, type(value).__name__
    else:
        yield name, value.replace(str(place), RUN) if isinstance(value, str) else value


def _events(path: Path) -> Iterator[tuple[str, Any]]:
    """What TensorBoard was given, by tag and place in its curve; times left out."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    counts: dict[str, int] = {}
    for content in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(content)
        if event.graph_def:
            yield "TensorBoard/graph", event.graph_def
        for value in event.summary.value:
            number = counts[value.tag] = counts.get(value.tag, -1) + 1
            what: Any = value.SerializeToString()
            if value.HasField("simple_value"):
                what = value.simple_value
            elif value.tag.startswith("_hparams_/"):  # the settings again, and a time
                what = None
            yield f"TensorBoard/{value.tag}/{number}", (event.step, what)


def _timeless(line: str) -> str:
    line = re.sub(r"\b\d+(\.\d+)? s\b", "SECONDS", line)
    return re.sub(r"\b(lightning|homemade)( loop:|\))", r"LOOP\2", line)


def _named(value: Any, place: str) -> Any:
    """Settings with the folder of the run in place of the word for it."""
    if isinstance(value, dict):
        return {key: _named(part, place) for key, part in value.items()}
    if isinstance(value, list):
        return [_named(part, place) for part in value]
    return value.replace(RUN, place) if isinstance(value, str) and value.startswith(RUN) else value


def nested(settings: Settings) -> Settings:
    """Dotted keys as mappings in mappings."""
    found: Settings = {}
    for key, value in settings.items():
        *above, name = key.split(".")
        part = found
        for step in above:
            part = part.setdefault(step, {})
        part[name] = value
    return found


@contextmanager
def _unchanged() -> Iterator[None]:
    """Leave variables, generators and torch's switches as they were, and keep warnings quiet."""
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    torch.manual_seed(0)  # where an experiment says that nothing is to be seeded
    try:
        with mock.patch.dict(os.environ), warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


@contextmanager
def _logged_to(stream: io.StringIO) -> Iterator[None]:
    """Have what Lightning logs in `stream` too: its handlers know the stderr of its import."""
    with ExitStack() as patches:
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    patches.enter_context(mock.patch.object(handler, "stream", stream))
        yield


@contextmanager
def _quick(draws: bool) -> Iterator[None]:
    """Leave out the figures, which cost most and are one function for both loops."""

    def touch(_: Any, path: Path) -> None:
        path.touch()

    with ExitStack() as patches:
        if not draws:
            for name in ("curves", "reconstructions", "confusion"):
                patches.enter_context(mock.patch.object(figures, name))
            patches.enter_context(mock.patch.object(figures, "save", touch))
        yield
