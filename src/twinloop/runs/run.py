"""A run under way: its folder, and what is kept in it while either loop trains."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from twinloop.data.spec import DataSpec
from twinloop.errors import UserError
from twinloop.processes import is_first
from twinloop.runs.board import RunLogger
from twinloop.runs.folder import check_unused, lock_run, new_run, run_of
from twinloop.runs.history import History
from twinloop.runs.record import Record
from twinloop.runs.saver import Saver
from twinloop.runs.stop import StopSignals
from twinloop.runs.timings import EventTimings


@dataclass
class Run:
    """What a run keeps, whichever loop trains it.

    Args:
        folder: Where it is kept.
        saver: Its checkpoints and its config.yaml.
        history: Its rows of metrics.
        signals: What has asked it to stop.
        logger: Lightning's, which writes for TensorBoard.
        timings: When everything was, where that is to be recorded.
        record: Every number, where that is to be recorded.
        bar: Whether to draw progress bars; None draws them in a terminal.
    """

    folder: Path
    saver: Saver
    history: History
    signals: StopSignals
    logger: RunLogger
    timings: EventTimings | None = None
    record: Record | None = None
    bar: bool | None = None

    @property
    def writer(self) -> SummaryWriter | None:
        """TensorBoard's writer; only the first process has one."""
        return self.logger.experiment if is_first() else None


@contextmanager
def run_folder(
    logs: Path, experiment: str, spec: DataSpec, *, asked: Path | None, resumed: Path | None
) -> Iterator[Path]:
    """Make or find the folder of a run, and keep other processes out of it.

    A run is resumed in its own folder. One that was made for a run that never began is removed.

    Args:
        logs: The folder of all runs.
        experiment: The experiment's name.
        spec: The data set.
        asked: The folder that the user wants it in, if any.
        resumed: The checkpoint that is resumed, if any.

    Raises:
        UserError: another run or another process has the folder, or it has vanished.
    """
    own = run_of(resumed) if resumed and resumed.parent.name == "checkpoints" else None
    folder = asked or own
    if asked and (own is None or own.resolve() != asked.resolve()):
        check_unused(asked)
    made = folder is None or not folder.exists()
    if folder is None:
        if is_first():
            folder = new_run(logs, experiment, spec.name)
        else:
            folder = logs / experiment / "version_of_the_first_process"
    elif asked:
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run(folder) if is_first() else None
    try:
        yield folder
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        raise UserError(f"the run folder {folder} is gone; start again") from error
    finally:
        if lock:
            lock.release()
        if made and is_first() and not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
