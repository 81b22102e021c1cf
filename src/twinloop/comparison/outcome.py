"""What one fit leaves: its exit status, its output, and every value in its run folder.

Everything is compared except times, the names of the loop and the folder, and the figures.
"""

import csv
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from twinloop.comparison.differences import compare_tensors
from twinloop.comparison.matrix import RUN
from twinloop.loops.trace import comparable, translated
from twinloop.runs.throughput import MEASURED
from twinloop.runs.timings import read_record, read_timings

IGNORED = (
    *("seconds", "loop", "trained_by", "machine", "versions"),
    *("commit", "uncommitted_changes", "command", "started"),
    MEASURED.rstrip("/"),
    "stopping_reason_message",
)
"""Keys that are not results of the training; only Lightning words the reason of a stop."""


@dataclass(frozen=True)
class Outcome:
    """The results of one fit."""

    status: int
    errors: list[str]
    """The lines of stderr, with RUN for the run folder."""
    found: dict[str, Any]
    """Tensors, numbers and strings by their path, in the order of their creation."""

    @property
    def steps(self) -> int:
        """The number of optimiser steps in the record."""
        return sum(key.endswith("/gradient norm") for key in self.found)

    @property
    def has_moved(self) -> bool:
        """Whether any weight differs from its start; the average of the weights may not."""
        return any(
            not torch.equal(value, self.found[key])
            for start, value in self.found.items()
            for end in ("record/state/", "last.ckpt/current_model_state/")
            if start.startswith("record/start/")
            and (key := start.replace("record/start/", end)) in self.found
        )


def read_outcome(
    run: Path, status: int, stdout: Sequence[str], stderr: Sequence[str], random_state: Tensor
) -> Outcome:
    """The outcome of a fit that has ended, from its folder `run` and from what it printed."""
    found: dict[str, Any] = dict(_files(run))
    found |= {f"printed/{n}": _timeless(line) for n, line in enumerate(stdout)}
    return Outcome(status, list(stderr), found | {"random state": random_state})


def differences(one: Outcome, other: Outcome) -> list[str]:
    """Where two outcomes differ, in the order of their creation; empty if they are the same.

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
    groups: dict[str, list[str]] = {}  # keys of the second only, next to those of their group
    for key in {**one.found, **other.found}:
        groups.setdefault("/".join(key.split("/")[:2]), []).append(key)
    for key in chain.from_iterable(groups.values()):
        if key not in other.found:
            found.append(f"{key}: only in the first, {_short(one.found[key])}")
        elif key not in one.found:
            found.append(f"{key}: only in the second, {_short(other.found[key])}")
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


def _files(run: Path) -> Iterator[tuple[str, Any]]:
    """The contents of a run folder, by path."""
    if (run / "record.pt").exists():
        record = asdict(read_record(run))
        yield from _leaves({"start": record.pop("start")} | record, "record", run)
    if (run / "trace.json").exists():
        timings = read_timings(run)
        is_lightning = any(event.event.startswith("on_") for event in timings.events)
        events = translated(timings.events) if is_lightning else comparable(timings.events)
        yield from _leaves(events, "trace", run)
        yield "trace/forwards and steps", (len(timings.forward), len(timings.stepped))
    for path in sorted(run.glob("checkpoints/*.ckpt")):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        yield from _leaves(checkpoint, path.name, run)
    for name in ("results.json", "run.json", "config.yaml"):
        if (run / name).exists():
            text = (run / name).read_text()
            content = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
            yield from _leaves(content, name.partition(".")[0], run)
    for path in sorted(run.glob("events.*")):
        yield from _events(path)
    for path in sorted(run.rglob("hparams.yaml")):
        name = str(path.relative_to(run))
        yield from _leaves(yaml.safe_load(path.read_text()), name, run)
    for path in sorted(run.rglob("metrics.csv")):
        yield from _leaves(unmeasured(path), str(path.relative_to(run)), run)
    for path in sorted(run.rglob("*")):
        if path.is_file() and not path.name.startswith(("events.", "changes.patch", "report.html")):
            name = str(path.relative_to(run))
            parsed = name in ("record.pt", "trace.json", "results.json", "run.json", "config.yaml")
            parsed |= path.name in ("hparams.yaml", "metrics.csv")
            yield f"files/{name}", not (parsed or path.suffix == ".ckpt") and path.read_bytes()


def unmeasured(table: Path) -> list[dict[str, str]]:
    """The rows of a CSVLogger's table, without what was measured of the loop."""
    with table.open(newline="") as file:
        rows = [
            {k: text for k, text in row.items() if text and not k.startswith(MEASURED)}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row.keys() - {"step"}]


def _leaves(value: Any, name: str, run: Path) -> Iterator[tuple[str, Any]]:
    """The leaves of a nested value, by their path in it."""
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            if key not in IGNORED:
                yield from _leaves(part, f"{name}/{key}".replace(str(run), RUN), run)
        if not value:
            yield name, type(value).__name__
    else:
        yield name, value.replace(str(run), RUN) if isinstance(value, str) else value


def _events(path: Path) -> Iterator[tuple[str, Any]]:
    """The events of a TensorBoard file, by tag and index in the curve, without times."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    counts: dict[str, int] = {}
    for content in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(content)
        if event.graph_def:
            yield "TensorBoard/graph", event.graph_def
        for value in event.summary.value:
            if value.tag.startswith(MEASURED):
                continue
            number = counts[value.tag] = counts.get(value.tag, -1) + 1
            logged: Any = value.SerializeToString()
            if value.HasField("simple_value"):
                logged = value.simple_value
            elif value.tag.startswith("_hparams_/"):  # the settings again, and a time
                logged = None
            yield f"TensorBoard/{value.tag}/{number}", (event.step, logged)


def _timeless(line: str) -> str:
    line = re.sub(r"\b\d+(\.\d+)? s\b", "SECONDS", line)
    return re.sub(r"\b(lightning|homemade)( loop:|\))", r"LOOP\2", line)
