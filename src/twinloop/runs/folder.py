"""The folder of a run: lightning_logs/<experiment>/version_<n>-<data set>/."""

import re
from pathlib import Path

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.runs.checkpoint import read_checkpoint, spec_of


def new_run(logs: Path, experiment: str, dataset: str) -> Path:
    """Make the folder of a new run; two runs that start at the same time get two folders.

    Raises:
        UserError: the folder cannot be made.
    """
    number = max((_number(path) for path in _runs(logs, experiment)), default=-1) + 1
    while True:
        # Numbers are unique across data sets.
        folder = logs / experiment / f"version_{number}-{dataset}"
        taken = any(_number(path) == number for path in _runs(logs, experiment))
        try:
            if not taken:
                folder.mkdir(parents=True)
                return folder
        except FileExistsError:
            pass
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
        number += 1


def numbered_folder(runs: Path, kind: str, *, resume: bool) -> Path:
    """A new folder `runs/<kind>_<n>`, or the last one.

    Raises:
        UserError: there is none to resume, or it cannot be made.
    """
    found = (re.fullmatch(rf"{kind}_(\d+)", path.name) for path in runs.glob(f"{kind}_*"))
    numbers = [int(match[1]) for match in found if match]
    if resume and not numbers:
        raise UserError(f"there is no {kind}_<number> in {runs} to resume; begin a new one")
    number = max(numbers) if resume else max(numbers, default=-1) + 1
    folder = runs / f"{kind}_{number}"
    try:
        folder.mkdir(parents=True, exist_ok=resume)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    return folder


def latest_run(logs: Path, experiment: str, spec: DataSpec) -> Path:
    """The newest run of an experiment on this data that has a checkpoint.

    Raises:
        UserError: there is none, or only runs on other data of the same name.
    """
    named = [
        folder
        for folder in sorted(_runs(logs, experiment), key=_number, reverse=True)
        if folder.name.partition("-")[2] == spec.name
        and (folder / "checkpoints" / "last.ckpt").is_file()
    ]
    for folder in named:
        checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
        if spec_of(checkpoint).fingerprint == spec.fingerprint:
            return folder
    other = f"; {len(named)} are on other data of that name" if named else ""
    raise UserError(
        f"ckpt_path: {logs / experiment} has no run of {experiment!r} on {spec.name} with a "
        f"checkpoint{other}; run fit first, or pass the path of a checkpoint"
    )


def latest_checkpoint(logs: Path, experiment: str) -> Path:
    """The last checkpoint of the newest run of an experiment, whatever the data set.

    Raises:
        UserError: there is none.
    """
    for folder in sorted(_runs(logs, experiment), key=_number, reverse=True):
        path = folder / "checkpoints" / "last.ckpt"
        if path.is_file():
            return path
    raise UserError(
        f"against: {logs / experiment} has no run of {experiment!r} with a checkpoint; "
        "run fit first"
    )


def checkpoint_of(place: Path) -> Path:
    """The checkpoint at `place`: the file itself, or the best one of a run or exported folder.

    Where nothing was validated, the best is the last.

    Raises:
        UserError: there is no such file or folder, or no checkpoint in it.
    """
    if place.is_file():
        return place
    if not place.exists():
        raise UserError(f"{place}: there is no such run or checkpoint")
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "model.safetensors"):
        if (place / name).is_file():
            return place / name
    runs = [path.parent for path in place.glob("*/checkpoints")]
    newest = f"; its newest run is {max(runs, key=_number)}" if runs else ""
    raise UserError(f"{place}: a folder without a checkpoint{newest}")


def check_unused(run: Path) -> None:
    """Make sure that a new run does not overwrite another one in the folder `run`.

    Raises:
        UserError: the folder has a checkpoint or results.
    """
    saved = [*(run / "checkpoints").glob("*.ckpt"), *run.glob("results.json")]
    if saved:
        raise UserError(
            f"run_folder: {run} already has a run ({saved[0].name}); resume it with "
            f"--ckpt_path {run / 'checkpoints' / 'last.ckpt'}, or choose another folder"
        )


def run_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint's run, or of the checkpoint if it is not in one of a run."""
    return (
        checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    )


def _runs(logs: Path, experiment: str) -> list[Path]:
    return [path for path in (logs / experiment).glob("version_*-*") if _number(path) >= 0]


def _number(folder: Path) -> int:
    match = re.match(r"version_(\d+)-", folder.name)
    return int(match[1]) if match else -1
