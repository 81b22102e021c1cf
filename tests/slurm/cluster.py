"""A SLURM of one node with two CPUs, on this machine for as long as a test needs it.

Every daemon has a folder, ports and a key of its own, so that several of these, and a SLURM that
the machine belongs to, do not know of each other.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue")
KILL_WAIT = 30
"""Seconds between SIGTERM and SIGKILL at the end of a job: SLURM's default."""
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where daemons are, which not everybody's PATH has."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

# Nothing that needs cgroups or a database. A requeued job waits until its credential has expired,
# which by default takes two minutes. Lightning derives a port from the job's number: it should not
# be the same in two of these that run side by side.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
FirstJobId={first_job}
JobRequeue=1
KillWait={kill_wait}
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """The commands of a SLURM; what it refuses raises CalledProcessError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        outside = {name: value for name, value in os.environ.items() if "SLURM" not in name}
        self.environment = outside | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:{SBIN}",
        }

    def call(self, *command: str) -> str:
        """What a command of SLURM prints."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    def submit(self, script: str, folder: Path, **variables: str) -> int:
        """Submit a batch script for two tasks, which prints to `folder`/job.txt; the job's id."""
        path = folder / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        output = ("--output", str(folder / "job.txt"), "--open-mode", "append")
        tasks = ("--nodes", "1", "--ntasks-per-node", "2", "--job-name", "train")
        given = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        chosen = (*tasks, *output, "--chdir", str(folder), "--export", given)
        return int(self.call("sbatch", "--parsable", *chosen, str(path)))

    def job(self, number: int) -> dict[str, str]:
        """What the controller knows of a job: JobState, Restarts, ExitCode, ..."""
        return dict(
            re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "-o", f"job={number}"))
        )

    def requeue(self, number: int) -> None:
        """Pre-empt a running job, as a job of higher priority would: it starts again later."""
        self.call("scontrol", "requeue", str(number))

    def wait(self, number: int, seconds: float = 240) -> dict[str, str]:
        """Wait until a job has ended for good; return what the controller knows of it."""
        until(lambda: self.job(number)["JobState"] in ENDED, f"job {number} to end", seconds)
        return self.job(number)

    def end_jobs(self) -> None:
        """Kill what still runs, and wait until SLURM has noticed."""
        for number in self.call("squeue", "--noheader", "--format", "%A").split():
            subprocess.run(
                ["scancel", "--full", "--signal", "KILL", number],
                env=self.environment,
                capture_output=True,
                check=False,
                timeout=60,
            )
            self.call("scancel", number)
        until(lambda: not self.call("squeue", "--noheader"), "jobs to end", KILL_WAIT + 30)


def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it was not so within `seconds`.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)


def missing() -> str | None:
    """Why there can be no SLURM here."""
    if os.geteuid() != 0:
        return "needs root, whom slurmd starts jobs as"
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    absent = [name for name in (*DAEMONS, *COMMANDS) if not shutil.which(name, path=path)]
    return f"needs {', '.join(absent)} (Debian's package slurm-wlm)" if absent else None


@contextmanager
def slurm() -> Iterator[Cluster]:
    """Start a SLURM, wait until its node is idle, and end it with everything it runs.

    Raises:
        RuntimeError: it does not start; with what its daemons have said.
    """
    # Not in a folder of pytest's: a socket's path is short, and open to all.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = _configured(folder)
        try:
            for daemon, options in _options(folder).items():
                stack.enter_context(_running(cluster, daemon, options))
                if daemon == "munged":
                    until((folder / "munge.socket").exists, "munged")
            until(lambda: _states(cluster) == ["idle"], "an idle node")
        except TimeoutError as error:
            said = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"{error}; SLURM has said:\n{said}") from error
        stack.callback(cluster.end_jobs)
        yield cluster


def _configured(folder: Path) -> Cluster:
    """Write slurm.conf and munge's key."""
    for part in ("state", "spool"):
        (folder / part).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    controller_port, node_port = free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=folder,
            controller_port=controller_port,
            node_port=node_port,
            first_job=random.randrange(1000, 9000),
            kill_wait=KILL_WAIT,
        )
    )
    return Cluster(folder)


def _options(folder: Path) -> dict[str, list[str]]:
    """How each daemon is started, in order."""
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
    files |= {"seed-file": "munge.seed"}
    munge = [f"--{option}={folder / file}" for option, file in files.items()]
    return {"munged": ["--foreground", *munge], "slurmctld": ["-D", "-c"], "slurmd": ["-D"]}


@contextmanager
def _running(cluster: Cluster, daemon: str, options: list[str]) -> Iterator[None]:
    """A daemon that is stopped again; what it says is in its log."""
    path = shutil.which(daemon, path=cluster.environment["PATH"])
    assert path is not None
    with (cluster.folder / f"{daemon}.log").open("w") as log:
        process = subprocess.Popen(
            [path, *options], env=cluster.environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _states(cluster: Cluster) -> list[str]:
    """The state of each node; none before the controller answers."""
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format", "%T"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return asked.stdout.split()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]
