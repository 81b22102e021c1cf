"""A run: its folder, and everything that either loop keeps in it."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.processes import is_first
from twinloop.runs.folder import check_unused, new_run, run_of
from twinloop.runs.history import History, Watch
from twinloop.runs.lock import lock_run
from twinloop.runs.record import Record
from twinloop.runs.repository import Repository
from twinloop.runs.saver import Saver
from twinloop.runs.stop import StopSignals
from twinloop.runs.timings import EventTimings


@dataclass
class Run:
    """Everything that a run keeps, for either loop.

    Args:
        folder: Its folder.
        saver: Its checkpoints and its config.yaml.
        history: Its rows of metrics.
        signals: The signals that stop it.
        loggers: Lightning's loggers.
        repository: The user's git repository at its start.
        timings: The time of each event, if recorded.
        record: Every value, if recorded.
        watch: Who is shown each epoch, if anybody.
        bar: Whether to draw progress bars; None draws them in a terminal.
    """

    folder: Path
    saver: Saver
    history: History
    signals: StopSignals
    loggers: Sequence[Logger]
    repository: Repository = field(default_factory=Repository)
    timings: EventTimings | None = None
    record: Record | None = None
    watch: Watch | None = None
    bar: bool | None = None

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Complete what the loggers write, and end their threads, however the run ends."""
        try:
            yield
        except BaseException:
            self._finalize("failed")
            raise
        self._finalize("success")

    def _finalize(self, status: str) -> None:
        for logger in self.loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):  # the next run of this process would continue it
                logger.experiment.finish(exit_code=int(status != "success"))


@contextmanager
def run_folder(
    logs: Path, experiment: str, spec: DataSpec, *, requested: Path | None, resumed: Path | None
) -> Iterator[Path]:
    """Make or find the folder of a run, and lock it: the user's, if one is `requested`.

    Otherwise a run is `resumed` in the folder of its checkpoint, and a new one has a new folder in
    `logs`, which is removed if the run never starts.

    Raises:
        UserError: the folder has another run, is locked, or was deleted.
    """
    own = run_of(resumed) if resumed and resumed.parent.name == "checkpoints" else None
    if requested and (own is None or own.resolve() != requested.resolve()):
        check_unused(requested)
    folder = requested or own
    made = folder is None or not folder.exists()
    if folder is None:
        # Other processes only need a name: the first one writes.
        name = logs / experiment / "version_of_the_first_process"
        folder = new_run(logs, experiment, spec.name) if is_first() else name
    elif requested:
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run(folder) if is_first() else None
    try:
        yield folder
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        raise UserError(f"the run folder {folder} was deleted; start again") from error
    finally:
        if lock:
            lock.release()
        if made and is_first() and not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
