"""The real command, by one process or by two, from its start until all its processes have ended.

A command of one process is forked from one that has imported much and done nothing, and then run
as `python -m` runs it: that saves each run the seconds that the imports take. Two processes are
started as a user would start them.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.moments import (
    ANY_TIME,
    ENVIRONMENT,
    Moment,
    Orders,
    orders_as_text,
    processes,
    workers,
)

EXPERIMENT = "denoising-autoencoder"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LOOPS = ("lightning", "homemade")
ONE, TORCHRUN, LAUNCHED = "one process", "torchrun", "Lightning's launcher"
KINDS = (
    *((ONE, loop) for loop in LOOPS),
    *((TORCHRUN, loop) for loop in LOOPS),
    (LAUNCHED, "lightning"),
)
"""Who starts the processes, and which loop they run."""
EPOCHS, BATCHES = 3, 6
VALIDATIONS = {
    "after each epoch": (),
    "every 2 batches": ("--trainer.val_check_interval", "2"),
    "twice an epoch": ("--trainer.val_check_interval", "0.5"),
    "every 2nd epoch": ("--trainer.check_val_every_n_epoch", "2"),
}
"""When there is a validation, and by which options."""
PATIENCE = 180.0
"""Seconds after which a command that does not end is killed."""
HANGING = 60.0
"""The same, from the signal on."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "twinloop.cli.fit",
        "datasets",
        "sklearn.datasets",
        "sklearn.linear_model",
        "matplotlib.figure",
    ]
)


@dataclass(frozen=True)
class Ended:
    """A command that has ended, by itself or at last by force.

    Args:
        status: Its exit status.
        printed: All that it has printed, of all processes.
        seconds: From the signal until the last of its processes had ended, or from its start.
        reached: Whether the moment was reached.
        others: How many more of its processes trained at that moment.
        hung: Whether it had to be killed.
    """

    status: int
    printed: str
    seconds: float
    reached: bool = False
    others: int = 0
    hung: bool = False


def fit(
    loop: str, root: Path, cache: Path, *options: str, validation: str = "after each epoch"
) -> list[str]:
    """The arguments of a small run on digits, whose noise draws random numbers everywhere."""
    return [
        *("fit", "--config", str(EXPERIMENTS / f"{EXPERIMENT}.yaml"), "--loop", loop),
        *("--data.source", "digits", "--data.cache_dir", str(cache), "--data.batch_size", "32"),
        *("--trainer.default_root_dir", str(root), "--trainer.max_epochs", str(EPOCHS)),
        *("--trainer.limit_train_batches", str(BATCHES), "--model.network.widths", "[4,8]"),
        *("--model.network.hidden", "8"),
        *VALIDATIONS[validation],
        *options,
    ]


def run(
    args: list[str],
    output: Path,
    moment: Moment | None = None,
    *,
    start: str = ONE,
    counting: bool = False,
) -> Ended:
    """Run `python -m twinloop ARGS`, print to the file `output`, and interrupt it at `moment`.

    Args:
        args: The command.
        output: Where its processes print to.
        moment: When to interrupt it, and how.
        start: Who starts its processes.
        counting: Keep how many calls of each phase there are, for `calls`.
    """
    orders = Orders(start, str(output), moment, counting)
    started = time.time()
    status, hung = (_run_one if start == ONE else _run_two)(args, orders)
    sent = Path(f"{output}.sent")
    since, others = json.loads(sent.read_text()) if sent.exists() else (started, 0)
    printed = output.read_text() if output.exists() else ""
    return Ended(status, printed, time.time() - since, sent.exists(), others, hung)


def calls(output: Path) -> list[dict[str, int]]:
    """How many calls of each phase a command had that was `counting`, by rank."""
    ranks = sorted(output.parent.glob(f"{output.name}.calls-*"))
    return [json.loads(path.read_text()) for path in ranks]


def _twinloop(args: list[str], orders: Orders) -> None:
    """Become `python -m twinloop ARGS`."""
    descriptor = os.open(orders.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    orders.follow(0, lambda number: os.kill(os.getpid(), number))
    sys.argv[1:] = args
    # Left by the server of forks: to twinloop it would look like a process that decodes.
    sys.modules.pop("__mp_main__", None)
    runpy.run_module("twinloop", run_name="__main__", alter_sys=True)


def _run_one(args: list[str], orders: Orders) -> tuple[int, bool]:
    """The exit status, and whether it had to be killed."""
    process = PROCESSES.Process(target=_twinloop, args=(args, orders))
    process.start()
    if orders.moment and orders.moment.phase == ANY_TIME:
        process.join(orders.moment.call / 1000)
        if process.is_alive():
            _note(orders, 0)
            orders.moment.send(lambda number: os.kill(process.pid or 0, number))
    process.join(PATIENCE)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    return process.exitcode or 0, hung


def launcher(start: str) -> list[str]:
    """What Python is called with to start two processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*(torchrun if start == TORCHRUN else []), "-m", "twinloop"]


def _run_two(args: list[str], orders: Orders) -> tuple[int, bool]:
    """The same of two processes; the exit status is that of who has started them."""
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    token = orders_as_text(orders)
    here = Path(__file__)
    # The other entries are for sitecustomize, and what that imports.
    path = [here.parent / "start", here.parents[2], os.environ.get("PYTHONPATH", "")]
    with Path(orders.output).open("a") as output:
        child = subprocess.Popen(
            [sys.executable, *launcher(orders.start), *args, *two],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), ENVIRONMENT: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of their own, as a shell gives them
        )
    hung = _wait(child, token, orders)
    while left := processes(token):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        child.poll()
        time.sleep(0.05)
    return child.wait(), hung


def _wait(child: subprocess.Popen[Any], token: str, orders: Orders) -> bool:
    """Wait until all processes have ended; returns whether one is left that does not."""
    moment, sent = orders.moment, Path(f"{orders.output}.sent")
    until = time.time() + PATIENCE
    trained: float | None = None  # when the first process said what it trains on
    reached = moment is None
    while child.poll() is None or processes(token):
        if not reached and moment and moment.phase == ANY_TIME:
            if trained is None and Path(orders.output).read_text().startswith(EXPERIMENT):
                trained = time.time()
            if trained and time.time() - trained >= moment.call / 1000:
                reached = True
                _interrupt_from_outside(child, token, orders)
        if sent.exists():
            until = min(until, sent.stat().st_mtime + HANGING)
        if time.time() > until:
            return True
        time.sleep(0.05)
    return False


def _interrupt_from_outside(child: subprocess.Popen[Any], token: str, orders: Orders) -> None:
    assert orders.moment
    training = workers(token)
    killed = [process for process, rank in training.items() if rank == orders.moment.rank]
    if signal.SIGKILL in orders.moment.signals and not killed:
        return  # it has not begun yet, or has ended

    def send(number: int) -> None:
        if number == signal.SIGKILL:
            os.kill(killed[0], number)
        elif number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            os.kill(child.pid, number)

    _note(orders, len(training) - 1)
    orders.moment.send(send)


def _note(orders: Orders, others: int) -> None:
    Path(f"{orders.output}.sent").write_text(json.dumps([time.time(), others]))
