"""Draw many inputs of a kind, and count what comes of them."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzzing import checkpoints, data, experiments
from tests.fuzzing import settings as settings_
from tests.fuzzing.sandbox import Case, Draw, Outcome, Sandbox, fault, run

KINDS: dict[str, Callable[[Draw, Sandbox], Case]] = {
    kind.__name__: kind
    for kind in (
        experiments.experiment_values,
        settings_.experiment_settings,
        experiments.experiment_text,
        experiments.experiment_bytes,
        experiments.experiment_bomb,
        checkpoints.checkpoint_bytes,
        checkpoints.checkpoint_values,
        checkpoints.checkpoint_code,
        data.image_bytes,
        data.parquet_bytes,
        data.labels,
        data.folders,
        data.names,
        data.sizes,
    )
}


def fuzz(
    kind: str,
    inputs: int,
    sandbox: Sandbox,
    first: int = 0,
    run: Callable[[list[str]], Outcome] = run,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Give the command line so many inputs of a kind; returns what came out, and what was wrong.

    What was wrong is kept in the folder `keep`, if there is one, by kind and number.
    """
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    worst = 0.0

    @seed(first)
    @settings(
        max_examples=inputs,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(drawn: st.DataObject) -> None:
        nonlocal worst
        case = KINDS[kind](drawn.draw, sandbox)
        started = time.perf_counter()
        kept = keep / kind / str(sandbox.number) if keep else None
        outcome, what = fault(case, sandbox, run, kept)
        worst = max(worst, time.perf_counter() - started)
        outcomes[outcome] += 1
        if what:
            wrong.append(f"{sandbox.number}: {case.command}: {what}")

    one()
    return {"inputs": outcomes.total(), **outcomes, "worst_seconds": worst, "faults": wrong}
