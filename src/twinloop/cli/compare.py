"""`python -m twinloop compare`: train an experiment by both loops, and compare the runs.

Each loop and seed runs in its own process, from the same initial weights. The runs of the first
seed record every value (`record.pt`); those of further seeds, if any, are used for the times, which
recording would affect.
"""

import math
import os
import shutil
import subprocess
import sys
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinloop.cli.experiment import checked_name, local_file, read_experiment, seeds_from
from twinloop.comparison.compare import ComparedRun, compare_checkpoints, write_report
from twinloop.errors import Parser, UserError
from twinloop.files import atomic_write
from twinloop.loops import LOOPS, Loop
from twinloop.runs.folder import numbered_folder
from twinloop.runs.lock import lock_run
from twinloop.runs.stop import StoppedAtOnce


def main(args: list[str]) -> int:
    """Run the command; returns 0 if the runs are bit-identical, otherwise 1.

    Raises:
        UserError: an invalid experiment or checkpoint, or a run that failed.
    """
    parser = Parser("twinloop compare", allow_abbrev=False)
    parser.add_argument(
        *("--config", "-c"), type=Path, required=True, action="append", help="as of fit"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of seeds, counting up from that of the file"
    )
    parser.add_argument("--resume", action="store_true", help="resume the last comparison")
    parser.add_argument("--against", type=Path, help="a checkpoint to compare the latest run with")
    parser.add_argument("--trainer.default_root_dir", dest="root", type=Path)
    given, options = parser.parse_known_args(args)
    for file in given.config:
        if not file.is_file():
            raise UserError(f"config: there is no file {file}")
    files = [*given.config, *filter(None, [local_file()])]
    experiments = [read_experiment(file) for file in files]
    experiment, where = dict(ChainMap(*reversed(experiments))), ", ".join(map(str, files))
    name = checked_name(experiment.get("experiment"), where)
    logs = (given.root or _root(experiments)) / "lightning_logs"
    if given.against:
        return compare_checkpoints(logs, name, given.against)

    seeds = seeds_from(experiment.get("seed_everything", 42), given.seeds, where)
    folder = numbered_folder(logs / name, "compare", resume=given.resume)
    configs = [f"--config={file}" for file in given.config]
    runs = [ComparedRun(loop, seed, folder / f"{loop}-{seed}") for seed in seeds for loop in LOOPS]
    for run in runs:
        if not run.is_finished:
            recorded = "all" if run.seed == seeds[0] else "times"
            _train(run, [*configs, *options, "--record", recorded], folder)
    lines = {loop: _lines(loop, [*configs, *options]) for loop in LOOPS}
    same = write_report(name, ["python", "-m", "twinloop", "compare", *args], runs, lines, folder)
    return 0 if same else 1


def _root(experiments: Sequence[dict[str, Any]]) -> Path:
    """The `trainer.default_root_dir` of the last file that has one."""
    trainers = [experiment.get("trainer") for experiment in reversed(experiments)]
    roots = [trainer.get("default_root_dir") for trainer in trainers if isinstance(trainer, dict)]
    return Path(str(next(filter(None, roots), ".")))


def _train(run: ComparedRun, options: Sequence[str], folder: Path) -> None:
    """Run `fit` in its own process; an unfinished run is started again."""
    command = [sys.executable, "-m", "twinloop", "fit", *options]
    command += ["--loop", run.loop, "--run_folder", str(run.folder)]
    command += ["--seed_everything", str(run.seed)]
    print(f"\n{run.loop} loop, seed {run.seed}", flush=True)
    run.folder.mkdir(exist_ok=True)
    # If a comparison was killed, the run that it had started continues.
    lock_run(run.folder, wait=True).release()
    shutil.rmtree(run.folder)
    with subprocess.Popen(command) as process:
        try:
            megabytes = wait(process)
        except StoppedAtOnce as stopped:
            process.terminate()  # it has received Ctrl-C, but not SIGTERM
            process.wait()
            raise StoppedAtOnce(stopped.by, "resume with --resume") from None
    if process.returncode:
        done = sorted(path.parent.name for path in folder.glob("*/memory.txt"))
        raise UserError(
            f"the {run.loop} run of seed {run.seed} ended with status {process.returncode}; "
            f"finished runs: {', '.join(done) or 'none'}; resume with --resume"
        )
    if not (run.folder / "results.json").is_file():
        raise UserError(
            "a run with trainer.fast_dev_run writes nothing to compare; unset it "
            "(--trainer.max_steps 1 is as short)"
        )
    with atomic_write(run.folder / "memory.txt") as part:
        part.write_text(f"{megabytes:.1f}\n")


def wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process to end; its peak memory in MiB, or NaN on Windows, which has no wait4."""
    if sys.platform == "win32":
        process.wait()
        return math.nan
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _lines(loop: Loop, options: Sequence[str]) -> float:
    """Distinct lines of the loop's package that two steps of training execute."""
    command = [sys.executable, "-m", "twinloop.cli.lines", "fit"]
    done = subprocess.run(
        [*command, *options, "--loop", loop], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])
