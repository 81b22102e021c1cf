"""`python -m twinloop sweep`: train an experiment many times, with settings that Optuna chooses."""

import io
import subprocess
import sys
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinloop.cli.experiment import read_experiment
from twinloop.cli.fit import check, fit_in
from twinloop.cli.parser import Experiment
from twinloop.errors import Parser, UserError, explain, import_extra
from twinloop.finite import NotFiniteError
from twinloop.loops.checks import overridden_hooks
from twinloop.processes import world_size
from twinloop.runs.folder import numbered_folder
from twinloop.runs.history import Pruned
from twinloop.runs.stop import Stopped, StoppedAtOnce
from twinloop.sweeps.space import Sweep, Values, options, parse_sweep, shown

if TYPE_CHECKING:
    from twinloop.sweeps.study import Claimed, Study


def main(args: list[str]) -> int:
    """Run trials until there are as many as wanted, then write what came out.

    Raises:
        UserError: an invalid experiment or sweep, before anything is trained; or no trial ended
            well.
        StoppedAtOnce: a signal has stopped the sweep; its trial is saved.
    """
    given, rest = _parser().parse_known_args(args)
    if not given.sweep.is_file():
        raise UserError(f"--sweep: there is no file {given.sweep}")
    sweep = parse_sweep(read_experiment(given.sweep), given.sweep)
    import_extra("optuna", "sweep")
    trials = sweep.trials if given.trials is None else given.trials
    if not (trials >= 1 and given.workers >= 1):
        raise UserError("--trials and --workers must be at least 1")
    experiment = _checked(rest, {})
    sweep = _with_metric(replace(sweep, trials=trials), experiment, given.sweep)
    if not given.worker:
        for values in sweep.probes():
            _checked([*rest, *options(values)], values, given.sweep)
    folder = _folder(experiment, given)
    settings = {**experiment.settings, "fingerprint of data": experiment.data.spec.fingerprint}
    with _opened(sweep, folder, experiment.name, given.storage, settings) as study:
        work = [*args, f"--folder={folder}", "--workers=1", "--worker"]
        with _workers(given.workers - 1, work, folder):
            _run_trials(study, rest)
        if not given.worker:
            _finish(study, experiment)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "twinloop sweep", allow_abbrev=False, epilog="Further options are those of fit."
    )
    parser.add_argument(
        *("--sweep", "-s"), type=Path, required=True, help="the sweep file: see docs/sweeps.md"
    )
    parser.add_argument("--trials", type=int, help="how many trials, in place of the file's number")
    parser.add_argument(
        "--workers", type=int, default=1, help="how many processes of this machine train trials"
    )
    parser.add_argument("--resume", action="store_true", help="resume the last sweep")
    parser.add_argument(
        "--folder", type=Path, help="the folder of the sweep; one that exists is resumed or joined"
    )
    parser.add_argument("--storage", help="URL of the study's database, such as mysql://...")
    parser.add_argument("--worker", action="store_true", help=SUPPRESS)  # how --workers starts one
    return parser


def _checked(args: list[str], values: Values, path: Path | None = None) -> Experiment:
    """The experiment with these values, if it can be trained; prints nothing about values."""
    try:
        with redirect_stdout(io.StringIO() if values else sys.stdout):
            experiment = Experiment(args)
            with experiment.user_errors():
                trainer = check(experiment, None)
    except Exception as error:
        reason = explain(error)
        if path is None or reason is None:
            raise
        shown = ", ".join(f"{key} {value!r}" for key, value in values.items())
        raise UserError(f"{path}: with {shown}: {reason}") from error
    config = experiment.config
    own = config.run_folder, config.ckpt_path, experiment.flags["fast_dev_run"]
    if any(own) or config.seeds > 1 or max(trainer.world_size, world_size()) > 1:
        raise UserError(
            "a sweep trains each trial once, in one process and a folder of its own: unset "
            "run_folder, ckpt_path, seeds, trainer.fast_dev_run, and several trainer.devices"
        )
    return experiment


def _with_metric(sweep: Sweep, experiment: Experiment, path: Path) -> Sweep:
    """The sweep with metric and direction, by default those that the task monitors.

    Raises:
        UserError: a metric that is not measured.
    """
    task = experiment.task
    metric = sweep.metric or task.monitor
    validates = bool(experiment.data.sizes["val"]) and experiment.flags["limit_val_batches"] != 0
    known = task.metric_names("train") + (task.metric_names("val") if validates else [])
    if metric not in known and not overridden_hooks(task):  # which may log metrics of their own
        raise UserError(
            f"{path}: metric is {metric!r}, which is not measured; the metrics are: "
            f"{', '.join(known)}"
        )
    if sweep.direction is None and metric != task.monitor:
        raise UserError(f"{path}: direction is not set; set minimize or maximize for {metric}")
    return replace(sweep, metric=metric, direction=sweep.direction or f"{task.mode}imize")


def _folder(experiment: Experiment, given: Any) -> Path:
    if given.folder is None:
        runs = experiment.logs / experiment.name
        return numbered_folder(runs, "sweep", resume=given.resume)
    folder = Path(given.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--folder: cannot make {folder}: {error.strerror}; name another"
        ) from error
    return folder


@contextmanager
def _opened(
    sweep: Sweep, folder: Path, experiment: str, address: str | None, settings: dict[str, Any]
) -> Iterator["Study"]:
    from twinloop.sweeps.study import Study

    name = f"{experiment}/{folder.name}"
    study = Study(sweep, folder, name, address, settings)
    try:
        yield study
    except (Stopped, StoppedAtOnce) as stopped:
        raise StoppedAtOnce(stopped.by, f"resume with --folder {folder}") from None
    finally:
        study.close()


@contextmanager
def _workers(count: int, args: list[str], folder: Path) -> Iterator[None]:
    """So many more processes that train trials of the same study, which end first."""
    command = [sys.executable, "-m", "twinloop", "sweep", *args]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        statuses = [other.wait() for other in others]
    if any(statuses):
        raise UserError(
            f"{folder}: a worker ended with status {max(statuses)}; resume with --folder {folder}"
        )


def _run_trials(study: "Study", args: list[str]) -> None:
    while claimed := study.claim():
        try:
            _run_trial(study, claimed, args)
        finally:
            claimed.lock.release()  # of a trial that was stopped, for who resumes it


def _run_trial(study: "Study", claimed: "Claimed", args: list[str]) -> None:
    """Train a trial, and tell the study how it ended; a signal leaves it to who resumes it."""
    metric = str(study.sweep.metric)
    value, failed = None, None
    try:
        with redirect_stdout(io.StringIO()):
            own = [*args, *options(claimed.values)]
            results = fit_in(claimed.folder, own, claimed.watch(metric))
        reached = [row[metric] for row in results["history"] if row.get(metric) is not None]
        best = min if study.sweep.direction == "minimize" else max
        value = best(reached, default=None)
        failed = None if reached else f"{metric} was never measured"
    except Pruned:
        pass
    except (Stopped, OSError):
        raise
    except Exception as error:
        if isinstance(error.__cause__, OSError):  # as of a full disk: the trial is resumed later
            raise
        failed = explain(error) or repr(error)
        if not isinstance(error, UserError | NotFiniteError):
            study.tell(claimed, None, failed)
            raise
    study.tell(claimed, value, failed)
    print(_line(claimed, metric, value, failed), flush=True)


def _line(claimed: "Claimed", metric: str, value: float | None, failed: str | None) -> str:
    ended = failed or ("pruned" if value is None else f"{metric} {value:.4f}")
    chosen = ", ".join(f"{key} {shown(value)}" for key, value in claimed.values.items())
    return f"trial {claimed.trial.number}: {ended}  ({chosen})"


def _finish(study: "Study", experiment: Experiment) -> None:
    from twinloop.sweeps.report import write_report

    write_report(study, f"{experiment.name} on {experiment.data.spec.name}")
