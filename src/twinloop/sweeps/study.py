"""The study of a sweep: an Optuna study, whose trials any number of processes take and end.

A trial belongs to the process that holds the lock of its file, which is free once that process has
ended in whatever way. So a trial that was killed is taken by the next process, under its number and
with its values. What a trial's values are depends only on the seed, its number and the trials that
have ended before.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from twinloop.errors import UserError, as_user_error
from twinloop.runs.history import Pruned, Watch
from twinloop.runs.settings import FOR_SWEEPS, changed_setting
from twinloop.sweeps.space import Setting, Sweep, Values

PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
}
WAIT = 60
"""Seconds to wait for another process that writes to the SQLite file."""


@dataclass
class Claimed:
    """A trial that this process has taken."""

    trial: Any
    values: Values
    folder: Path
    lock: FileLock

    def watch(self, metric: str) -> Watch:
        """What reports the metric of each epoch to the study, and ends a run that is weak."""
        reported = set(self.trial.study.trials[self.trial.number].intermediate_values)

        def report(row: Mapping[str, float]) -> None:
            epoch = int(row["epoch"])
            if metric not in row:  # it is not validated after every epoch
                return
            if epoch not in reported:
                self.trial.report(row[metric], epoch)
            if self.trial.should_prune():
                raise Pruned

        return report


class Study:
    """The study in the folder of a sweep, or at another address.

    Args:
        sweep: Its file, with metric and direction.
        folder: The folder of the sweep.
        name: The name of the study, which processes with the same address share.
        address: The URL of another database; None keeps the study in `folder`/study.db.
        settings: All settings of the experiment.

    Raises:
        UserError: the study has other ranges or settings, or the database cannot be opened.
    """

    def __init__(
        self, sweep: Sweep, folder: Path, name: str, address: str | None, settings: dict[str, Any]
    ) -> None:
        self.sweep, self.folder, self.is_shared = sweep, folder, address is not None
        self.lock = FileLock(folder / "sweep.lock")
        self.grid = sweep.combinations() if sweep.sampler["name"] == "grid" else []
        self.count = min(sweep.trials, len(self.grid) or sweep.trials)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = _built(PRUNERS, sweep.pruner, "pruner")
        self._sampler(0, 0)  # refuse its arguments now
        with self.lock, as_user_error(f"storage: {address or folder / 'study.db'}"):
            self.storage = _opened(address) if address else _in_folder(folder)
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                direction=sweep.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            self._check(settings)

    def _check(self, settings: dict[str, Any]) -> None:
        """Compare the ranges and settings with those that the study began with."""
        ranges = {setting.key: vars(setting) for setting in self.sweep.settings}
        now = json.loads(json.dumps({**vars(self.sweep), "trials": None, "settings": ranges}))
        then = self.study.user_attrs.get("sweep")
        if then is None:
            self.study.set_user_attr("settings", settings)
            self.study.set_user_attr("sweep", now)
            return
        began = changed_setting(then, now, ()) or changed_setting(
            self.study.user_attrs["settings"], settings, FOR_SWEEPS
        )
        if began:
            key, before, after = began
            raise UserError(
                f"{self.folder}: the study was begun with {key} {before}, which is {after} now; "
                "pass the original value, or begin a new sweep"
            )

    def claim(self) -> Claimed | None:
        """Take a trial that was killed, or else the next one; None if there are no more."""
        with self.lock:
            for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if lock := self._held(frozen.number):
                    return self._claimed(optuna.Trial(self.study, frozen._trial_id), lock)
            if len(self.study.get_trials(deepcopy=False)) >= self.count:
                return None
            trial = self.study.ask()
            lock = self._held(trial.number, new=True)
            assert lock
            return self._claimed(trial, lock)

    def tell(self, claimed: Claimed, value: float | None, failed: str | None = None) -> None:
        """End a trial: with its value, as failed for this reason, or with neither as pruned."""
        state = TrialState.COMPLETE if value is not None else TrialState.PRUNED
        if failed is not None:
            claimed.trial.set_user_attr("failed", failed)
            state = TrialState.FAIL
        self.study.tell(claimed.trial, value, state)
        with self.lock:
            claimed.lock.release()
            Path(claimed.lock.lock_file).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections to the database."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def _held(self, number: int, *, new: bool = False) -> FileLock | None:
        """The lock of a trial, unless another process has it."""
        path = self.folder / f"trial-{number}.lock"
        if self.is_shared and not (new or path.exists()):
            return None  # it runs on a machine that has another folder
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _claimed(self, trial: Any, lock: FileLock) -> Claimed:
        values: Values = {}
        for place, setting in enumerate(self.sweep.settings):
            if setting.exists(values):
                # One of its own for each value: killed in between, a trial gets the same values.
                self.study.sampler = self._sampler(trial.number, place)
                values[setting.key] = _suggested(trial, setting)
        return Claimed(trial, values, self.folder / f"trial-{trial.number}", lock)

    def _sampler(self, number: int, place: int) -> Any:
        """The sampler of the value at `place` of a trial."""
        state = np.random.SeedSequence([self.sweep.seed, number, place]).generate_state(1)
        seed = int(state[0])
        if self.grid:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.PartialFixedSampler(
                    self.grid[number], optuna.samplers.RandomSampler(seed)
                )
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        independent = {"multivariate": False} if self.sweep.sampler["name"] == "tpe" else {}
        return _built(kinds, {**self.sweep.sampler, **independent, "seed": seed}, "sampler")


def _suggested(trial: Any, setting: Setting) -> Any:
    if setting.choices:
        return trial.suggest_categorical(setting.key, setting.choices)
    suggest = trial.suggest_int if setting.is_whole else trial.suggest_float
    step = setting.step or (1 if setting.is_whole else None)
    return suggest(setting.key, setting.low, setting.high, step=step, log=setting.log)


def _built(kinds: Mapping[str, Any], given: dict[str, Any], what: str) -> Any:
    """An object of Optuna by its name and arguments."""
    arguments = {key: value for key, value in given.items() if key != "name"}
    with as_user_error(f"{what} {given['name']}"):
        return kinds[given["name"]](**arguments)


def _in_folder(folder: Path) -> Any:
    """The SQLite file in a folder; a kill leaves none that is half made."""
    path = folder / "study.db"
    if not path.exists():
        part = path.with_name("study.db.part")
        part.unlink(missing_ok=True)
        made = _opened(f"sqlite:///{part}")
        made.remove_session()
        made.engine.dispose()
        part.replace(path)
    return _opened(f"sqlite:///{path}", connect_args={"timeout": WAIT})


def _opened(address: str, **engine: Any) -> Any:
    return optuna.storages.RDBStorage(address, engine_kwargs=engine)
