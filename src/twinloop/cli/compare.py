"""`python -m twinloop compare`: one experiment through both loops, and where the runs differ.

Each loop and seed is a process of its own, from the same start. The first seed keeps every number
(`record.pt`); the others, where there are any, give the times, which taking numbers would disturb.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinloop.cli.experiment import SEEDS, checked_name, read_experiment
from twinloop.comparison.compare import ComparedRun, compare_checkpoints, write_report
from twinloop.errors import Parser, UserError
from twinloop.files import atomic_write
from twinloop.loops import LOOPS, Loop
from twinloop.runs.folder import lock_run
from twinloop.runs.stop import StoppedAtOnce

MOST_SEEDS = 1_000


def main(args: list[str]) -> int:
    """Run the command; returns 0 where the runs are the same bit for bit, and 1 where not.

    Raises:
        UserError: no experiment, a run that failed, or a checkpoint that cannot be read.
    """
    parser = Parser("python -m twinloop compare", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="a file of experiments/")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted up from the file's")
    parser.add_argument("--resume", action="store_true", help="go on with the last comparison")
    parser.add_argument("--against", type=Path, help="a checkpoint, to compare the latest run with")
    parser.add_argument("--trainer.default_root_dir", dest="root", type=Path)
    wanted, options = parser.parse_known_args(args)
    if not wanted.config.is_file():
        raise UserError(f"config: there is no file {wanted.config}")
    experiment = read_experiment(wanted.config)
    name = checked_name(experiment.get("experiment"), wanted.config)
    logs = (wanted.root or _root(experiment)) / "lightning_logs"
    if wanted.against:
        return compare_checkpoints(logs, name, wanted.against)

    seeds = _seeds(experiment.get("seed_everything", 42), wanted.seeds, wanted.config)
    folder = _folder(logs / name, wanted.resume)
    runs = [ComparedRun(loop, seed, folder / f"{loop}-{seed}") for seed in seeds for loop in LOOPS]
    for run in runs:
        if not run.is_finished:
            recorded = "all" if run.seed == seeds[0] else "times"
            _train(run, [*options, "--record", recorded], wanted.config, folder)
    lines = {loop: _lines(loop, wanted.config, options) for loop in LOOPS}
    same = write_report(name, ["python", "-m", "twinloop", "compare", *args], runs, lines, folder)
    return 0 if same else 1


def _root(experiment: dict[str, Any]) -> Path:
    """The folder that an experiment's file has for the runs of all experiments."""
    trainer = experiment.get("trainer")
    asked = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    return Path(str(asked or "."))


def _seeds(first: Any, count: int, config: Path) -> range:
    """`count` seeds, counted up from the file's."""
    if type(first) is not int or not 0 <= first < SEEDS:
        raise UserError(
            f"{config}: seed_everything is {first!r}; a comparison needs a number from 0 to "
            f"{SEEDS - 1:,}"
        )
    most = min(MOST_SEEDS, SEEDS - first)
    if not 1 <= count <= most:
        raise UserError(f"--seeds is {count:,}; it must be from 1 to {most:,}")
    return range(first, first + count)


def _folder(runs: Path, resume: bool) -> Path:
    """A new folder for a comparison, or that of the last one."""
    numbers = [
        int(match[1])
        for path in runs.glob("compare_*")
        if (match := re.fullmatch(r"compare_(\d+)", path.name))
    ]
    if resume and not numbers:
        raise UserError(f"resume: there is no comparison in {runs}; leave --resume out")
    number = max(numbers) if resume else max(numbers, default=-1) + 1
    folder = runs / f"compare_{number}"
    try:
        folder.mkdir(parents=True, exist_ok=resume)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    return folder


def _train(run: ComparedRun, options: Sequence[str], config: Path, folder: Path) -> None:
    """Run `fit` in a process of its own; what was left half done is begun again."""
    command = [sys.executable, "-m", "twinloop", "fit", "--config", str(config), *options]
    command += [
        "--loop",
        run.loop,
        "--seed_everything",
        str(run.seed),
        "--run_folder",
        str(run.folder),
    ]
    print(f"\n{run.loop} loop, seed {run.seed}", flush=True)
    run.folder.mkdir(exist_ok=True)
    # The run of a comparison that was killed has gone on without it.
    lock_run(run.folder, wait=True).release()
    shutil.rmtree(run.folder)
    with subprocess.Popen(command) as process:
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except StoppedAtOnce as stopped:
            process.terminate()  # Ctrl-C has reached it too, SIGTERM has not
            process.wait()
            raise StoppedAtOnce(stopped.by, "go on with --resume") from None
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        done = sorted(path.parent.name for path in folder.glob("*/memory.txt"))
        raise UserError(
            f"the {run.loop} run of seed {run.seed} ended with status {process.returncode}; "
            f"finished are {', '.join(done) or 'none'}; go on with --resume"
        )
    if not (run.folder / "results.json").is_file():
        raise UserError(
            "a run with trainer.fast_dev_run leaves nothing that could be compared; leave it out "
            "(--trainer.max_steps 1 is as short)"
        )
    with atomic_write(run.folder / "memory.txt") as part:
        part.write_text(f"{usage.ru_maxrss / 1024:.1f}\n")


def _lines(loop: Loop, config: Path, options: Sequence[str]) -> float:
    """Distinct lines of the loop's own package that two steps of training execute."""
    command = [sys.executable, "-m", "twinloop.cli.lines", "fit", "--config", str(config)]
    done = subprocess.run(
        [*command, *options, "--loop", loop], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])
