"""How many processes there are, how they meet, and what they say of one that has ended."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed, nn
from torch._C._distributed_c10d import TCPStore
from torch.nn.parallel import DistributedDataParallel

from tests.slurm.cluster import free_ports
from twinloop.errors import UserError
from twinloop.processes import is_first, join, largest, local_rank, peer_lost, world_size

CPU = torch.device("cpu")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["twinloop.processes"])
STARTERS = ("torchrun", "SLURM", "Lightning")
OURS = ("SLURM", "MASTER_", "TORCHELASTIC", "RANK", "LOCAL_", "WORLD_", "NODE_", "GROUP_")


def variables(starter: str, rank: int, port: int = 15001) -> dict[str, str]:
    """What one of two processes finds in its environment; SLURM's port is from the job's number."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if starter == "SLURM":
        job = {"SLURM_JOB_ID": str(port - 15000), "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}
        job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost"}
        place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
        return job | place
    found = meeting | {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    more = {"RANK": str(rank), "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    return found | (more if starter == "torchrun" else {"NODE_RANK": "0"})


def free_port() -> int:
    """A port that nobody listens on, of those that Lightning makes of the number of a job."""
    for port in range(15000 + os.getpid() % 5000, 25000):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise RuntimeError("no free port")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has started the tests is none of their business."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    for name, value in found.items():
        monkeypatch.setenv(name, value)


Work = Callable[[int], Any]


def in_two(work: Work, starter: str = "torchrun") -> list[Any]:
    """What two processes return that have joined; None for one that was killed."""
    port = free_port()
    found, started = [], []
    for rank in range(2):
        here, there = PROCESSES.Pipe(duplex=False)
        given = variables(starter, rank, port)
        process = PROCESSES.Process(target=_joined, args=(work, rank, given, there))
        process.start()
        there.close()
        started.append((process, here))
    for process, here in started:
        try:
            found.append(here.recv() if here.poll(200) else "waits")
        except EOFError:
            found.append(None)
        process.kill()
        process.join()
        process.close()
        here.close()
    return found


def _joined(work: Work, rank: int, given: dict[str, str], answer: Connection) -> None:
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(given)
    torch.set_num_threads(1)
    join(CPU)
    answer.send(work(rank))


@pytest.mark.parametrize(
    ("found", "size"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "3"}, 3),
        (variables("torchrun", 1), 2),
        (variables("Lightning", 1), 2),
        (variables("SLURM", 1), 2),
        (variables("SLURM", 1) | {"SLURM_JOB_NAME": "interactive"}, 1),
        # torchrun inside a step of SLURM is who starts the processes.
        (variables("SLURM", 0) | variables("torchrun", 1) | {"WORLD_SIZE": "4"}, 4),
        # A batch script that does not say srun is one process.
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}, 1),
    ],
    ids=[
        *("alone", "by hand", "torchrun", "Lightning", "SLURM", "interactive"),
        *("torchrun in SLURM", "batch script"),
    ],
)
def test_world_size_is_known_before_joining(
    found: dict[str, str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, found)
    assert world_size() == size


@pytest.mark.parametrize("starter", STARTERS)
def test_local_rank(starter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_rank() == 0
    set_all(monkeypatch, variables(starter, 1))
    assert local_rank() == 1


def test_a_single_process_joins_no_group_and_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    join(CPU)
    assert not distributed.is_initialized()
    assert largest(7) == 7
    assert is_first()
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # Lightning's
    assert not is_first()


UNSET = "the environment variable {} is not set; start them with torchrun or srun"


@pytest.mark.parametrize(
    ("starter", "name", "value", "message"),
    [
        *(("torchrun", name, None, UNSET) for name in ("MASTER_ADDR", "MASTER_PORT", "RANK")),
        ("Lightning", "LOCAL_RANK", None, UNSET),
        ("SLURM", "SLURM_PROCID", None, UNSET),
        ("SLURM", "SLURM_NTASKS_PER_NODE", None, "SLURM: .*Use `--ntasks-per-node=2` instead"),
        ("torchrun", "WORLD_SIZE", "two", "{} is 'two', which is not a number"),
        ("torchrun", "RANK", "two", "{} is 'two', which is not a number"),
    ],
)
def test_a_missing_or_invalid_variable_is_named(
    starter: str, name: str, value: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables(starter, 1) | {name: value or ""})
    if value is None:
        monkeypatch.delenv(name)
        monkeypatch.setenv("GROUP_RANK", "0")
        if name == "RANK":  # on another machine the rank among its processes is not enough
            monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=message.format(name)):
        join(CPU)
    assert not distributed.is_initialized()


def test_a_port_in_use_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        set_all(monkeypatch, variables("Lightning", 0, port))
        said = rf"process 0 of 2 cannot join the others at 127.0.0.1:{port}: .*EADDRINUSE"
        with pytest.raises(UserError, match=said) as raised:
            join(CPU)
    assert "\n" not in str(raised.value)
    assert not peer_lost(raised.value)


def agree(rank: int) -> Any:
    join(CPU)  # again, which changes nothing
    found = [largest(value) for value in (rank, 5 - rank, -1)]
    left = [name for name in os.environ if name.startswith("MASTER_")]
    return distributed.get_rank(), world_size(), distributed.get_backend(), found, len(left)


@pytest.mark.slow
@pytest.mark.parametrize("starter", STARTERS)
def test_two_processes_meet_and_agree(starter: str) -> None:
    left = 0 if starter == "SLURM" else 2  # of the variables nothing that was not there before
    ours = [(rank, 2, "gloo", [1, 5, -1], left) for rank in range(2)]
    assert in_two(agree, starter) == ours


def agree_beside_another_backend(rank: int) -> list[int]:
    """The backend `fake` reduces nothing, as NCCL reduces nothing that is on the CPU."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - registers it

    found: list[int] = []
    ports: list[Any] = [free_ports(2)]
    distributed.broadcast_object_list(ports, 0)
    distributed.destroy_process_group()
    for port in ports[0]:  # each default group has a group of its own
        store = TCPStore("127.0.0.1", port, 2, rank == 0)
        distributed.init_process_group("fake", store=store, rank=rank, world_size=2)
        found += [largest(rank), largest(10 - rank)]
        distributed.destroy_process_group()
    return found


@pytest.mark.slow
def test_processes_agree_on_the_cpu_with_any_backend() -> None:
    assert in_two(agree_beside_another_backend) == [[1, 10, 1, 10]] * 2


def reduce() -> None:
    distributed.all_reduce(torch.ones(1))


def backward() -> None:
    DistributedDataParallel(nn.Linear(3, 1))(torch.ones(2, 3)).sum().backward()


def gather() -> None:
    distributed.all_gather_object([None, None], {"rank": 0})


def ask() -> None:
    largest(0)


def ask_the_store() -> None:
    distributed.new_group(timeout=timedelta(seconds=2))


TALK = {talk.__name__: talk for talk in (reduce, backward, gather, ask, ask_the_store)}


class Left:
    """Talks once together; then the one is killed, and the other says what it is told of that."""

    def __init__(self, name: str, killed: int) -> None:
        self.name, self.killed = name, killed

    def __call__(self, rank: int) -> Any:
        """What the other is told, and whether that is taken for it."""
        try:
            while True:  # it may take the system a moment to say that the one is gone
                TALK[self.name]()
                if rank == self.killed:
                    os.kill(os.getpid(), signal.SIGKILL)
        except BaseException as error:
            return peer_lost(error), f"{type(error).__name__}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "killed"), [(name, n % 2) for n, name in enumerate(TALK)])
def test_a_killed_process_is_reported_by_the_other(name: str, killed: int) -> None:
    found = in_two(Left(name, killed))
    assert found[killed] is None
    assert found[1 - killed][0], found


def chained(outer: BaseException, cause: BaseException) -> BaseException:
    outer.__cause__ = cause
    return outer


CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (CLOSED, True),
        (chained(ValueError("in a hook"), CLOSED), True),
        (chained(UserError("told already"), CLOSED), False),
        (distributed.DistBackendError("NCCL error: ncclRemoteError: A call failed"), True),
        (distributed.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU"), False),
        (RuntimeError("shape mismatch"), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),  # the Hub's
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
    ids=str,
)
def test_peer_lost_recognises_a_lost_connection(error: BaseException, lost: bool) -> None:
    assert peer_lost(error) == lost
