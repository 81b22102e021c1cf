"""The summary of a run, `run.json`: small, and read without PyTorch, for the list of all runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from twinloop.errors import UserError, explain
from twinloop.files import as_json, atomic_write
from twinloop.runs.lock import is_locked

NAME = "run.json"
RESULTS = "results.json"


def begin(run: Path, content: Mapping[str, Any]) -> None:
    """Write the summary of a run that begins, or is resumed; its tags may be those of before."""
    content = {**content, "started": datetime.now().astimezone().isoformat(timespec="seconds")}
    if not content.get("tags") and (run / NAME).exists():
        content["tags"] = read(run)["tags"]
    _write(run, content)


def update(run: Path, **more: Any) -> None:
    """Add to the summary of a run: its results, its error, or other tags."""
    _write(run, {**read(run), **more})


@contextmanager
def noting_error(run: Path, stopped: tuple[type[Exception], ...]) -> Iterator[None]:
    """Add the error that ends a run to its summary, unless it is one of `stopped`."""
    try:
        yield
    except stopped:
        raise
    except Exception as error:
        with suppress(OSError, UserError):  # the error itself is more important
            if (run / NAME).exists():
                update(run, error=explain(error) or repr(error))
        raise


def read(run: Path) -> dict[str, Any]:
    """The summary of the run in a folder; one from before there were any has no settings.

    Raises:
        UserError: the file is not the summary of a run.
        FileNotFoundError: it is no folder of a run.
    """
    try:
        with open(f"{run}/{NAME}", "rb") as file:  # noqa: PTH123 - faster, of ten thousand
            content = json.loads(file.read())
    except FileNotFoundError:
        return _of_results(run)
    except ValueError as error:
        raise UserError(f"{run / NAME}: no summary of a run ({error}); remove the file") from error
    if not isinstance(content, dict) or not {"experiment", "settings"} <= content.keys():
        raise UserError(f"{run / NAME}: no summary of a run; remove the file")
    return content


def state_of(run: Path, content: Mapping[str, Any]) -> str:
    """What has become of a run: 'finished', 'running', 'stopped' or 'failed'.

    It is stopped if it can be resumed, whether by a signal or killed; and failed if it has ended
    with an error, or before there was a checkpoint.
    """
    if "error" in content:
        return "failed"
    if "seconds" in content:
        return "finished"
    if is_locked(run):
        return "running"
    return "stopped" if (run / "checkpoints" / "last.ckpt").exists() else "failed"


def _of_results(run: Path) -> dict[str, Any]:
    """The summary of a run that has only a results.json."""
    found = json.loads((run / RESULTS).read_bytes())
    scalars = {
        stage: {name: value for name, value in found[stage].items() if isinstance(value, float)}
        for stage in ("val", "test")
    }
    return {
        **{key: found.get(key) for key in ("experiment", "loop", "tags", "epochs")},
        "data": found["dataset"]["name"],
        "seconds": found["seconds"]["total"],
        "settings": {},
        **scalars,
    }


def _write(run: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(run / NAME) as part:
        part.write_text(as_json(content), encoding="utf-8")
