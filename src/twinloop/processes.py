"""Several processes that train together: how many there are, and what they have to agree on.

torchrun, SLURM's srun or Lightning's own launcher start them; whom to believe where several could
have is decided in Lightning's order.
"""

import os
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

from twinloop.errors import UserError

PEER_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",  # a process that is there, and does not answer
    "Application timeout caused pair closure",  # whatever is tried after that
)
"""What gloo says in a plain RuntimeError where another process has ended."""
NCCL_LOST = ("ncclRemoteError", "ncclSystemError", "timeout")
"""What NCCL's errors say then; they can be about a process's own GPU too."""

_gloo: WeakKeyDictionary[distributed.ProcessGroup, distributed.ProcessGroup] = WeakKeyDictionary()
"""For each default group the group that `largest` talks through."""


def world_size() -> int:
    """How many processes train together, also before they have joined; 1 where nobody says.

    Raises:
        UserError: a variable of torchrun or SLURM is not a number.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    if _by_srun():
        return _number("SLURM_NTASKS")
    return _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def local_rank() -> int:
    """Which process of its machine this is, and so which GPU is its own.

    Raises:
        UserError: a variable of torchrun or SLURM is missing or not a number.
    """
    if _by_srun():
        return _number("SLURM_LOCALID")
    return _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def join(device: torch.device) -> None:
    """Initialise the process group, unless this process is alone or it is there already.

    Args:
        device: What this process trains on: a GPU talks over NCCL, a CPU over gloo.

    Raises:
        UserError: who started the processes has left something out, or the others do not come.
    """
    if world_size() == 1 or distributed.is_initialized():
        return
    rank, size = (_rank_in_slurm if _by_srun() else _rank)(), world_size()
    host, port = (_meeting_point_in_slurm if _by_srun() else _meeting_point)()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    try:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=address, rank=rank, world_size=size
        )
    except (distributed.DistError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(
            f"process {rank} of {size} cannot meet the others at {host}:{port}: {line}; "
            "MASTER_ADDR and MASTER_PORT say where the first one is to be reached"
        ) from error


def largest(value: int) -> int:
    """The largest `value` of all processes, each of which has to ask; no GPU is waited for."""
    if world_size() == 1:
        return value
    answer = torch.tensor(value)
    distributed.all_reduce(answer, distributed.ReduceOp.MAX, group=_over_gloo())
    return int(answer)


def peer_lost(error: BaseException) -> bool:
    """Whether an error, or what it comes from, says that another process has ended or hangs."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        if _says_that_a_peer_is_lost(found):
            return True
        found = found.__cause__
    return False


def _says_that_a_peer_is_lost(error: BaseException) -> bool:
    if isinstance(error, distributed.DistBackendError):
        return any(text in str(error) for text in NCCL_LOST)
    # The store is in the first process, and cannot be read or reached when that has ended.
    if isinstance(error, distributed.DistStoreError | distributed.DistNetworkError):
        return True
    return type(error) is RuntimeError and any(text in str(error) for text in PEER_LOST)


def _over_gloo() -> distributed.ProcessGroup | None:
    """A group of all that talks on the CPU, made when it is first asked for; None: the default."""
    everyone = distributed.group.WORLD
    if everyone is None or distributed.get_backend() == "gloo":
        return None
    if everyone not in _gloo:
        _gloo[everyone] = distributed.new_group(backend="gloo")
    return _gloo[everyone]


def _by_srun() -> bool:
    """Whether srun has started this process, as Lightning decides it: torchrun may run inside.

    A batch script has SLURM's variables too, and is one process however many tasks it asks for.
    """
    if distributed.is_available() and distributed.is_torchelastic_launched():
        return False
    return {"SLURM_NTASKS", "SLURM_STEP_ID"} <= os.environ.keys() and SLURMEnvironment.detect()


def _rank_in_slurm() -> int:
    return _number("SLURM_PROCID")


def _rank() -> int:
    """Lightning's launcher leaves the rank out: on one machine it is the local one."""
    on_first_machine = os.environ.get("NODE_RANK", "0") == "0"
    return _number("LOCAL_RANK" if on_first_machine and "RANK" not in os.environ else "RANK")


def _meeting_point_in_slurm() -> tuple[str, int]:
    """Address and port of the first process, found as Lightning does, who leaves them behind."""
    names = ("MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        slurm = SLURMEnvironment()
        return slurm.main_address, slurm.main_port
    except (RuntimeError, ValueError) as error:
        raise UserError(f"SLURM: {error}") from error
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _meeting_point() -> tuple[str, int]:
    if not os.environ.get("MASTER_ADDR"):
        raise UserError(_left_out("MASTER_ADDR"))
    return os.environ["MASTER_ADDR"], _number("MASTER_PORT")


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not text:
        raise UserError(_left_out(variable))
    if not text.isdecimal():
        raise UserError(f"the environment variable {variable} is {text!r}, which is not a number")
    return int(text)


def _left_out(variable: str) -> str:
    return (
        f"several processes are to train together, and the environment variable {variable} is "
        "not set; start them with torchrun or srun"
    )


def rank() -> int:
    """The number of this process among those that have joined; 0 where it is alone."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if joined else 0


def gathered(value: Any) -> list[Any]:
    """The `value` of each process in the order of ranks; all of them have to ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found
