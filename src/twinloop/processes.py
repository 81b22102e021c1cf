"""Processes that train together: their number, ranks, rendezvous, and what they exchange.

torchrun, SLURM's srun or Lightning's launcher start them. Where the variables of several are set,
they take precedence in Lightning's order.
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
    "Timed out waiting",  # a process that hangs
    "Application timeout caused pair closure",  # every later call
)
"""gloo's messages, in a plain RuntimeError, when another process has ended."""
NCCL_LOST = ("ncclRemoteError", "ncclSystemError", "timeout")
"""NCCL's messages; they can also be caused by the process's own GPU."""

_gloo: WeakKeyDictionary[distributed.ProcessGroup, distributed.ProcessGroup] = WeakKeyDictionary()
"""The gloo group of each default group, for `largest`."""


def world_size() -> int:
    """The number of processes that train together, also before they have joined.

    Raises:
        UserError: a variable of torchrun or SLURM is not a number.
    """
    if _joined():
        return distributed.get_world_size()
    if _by_srun():
        return _number("SLURM_NTASKS")
    return _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """The rank of this process among those that have joined; 0 if it is alone."""
    return distributed.get_rank() if _joined() else 0


def local_rank() -> int:
    """The rank of this process on its machine, and so the index of its GPU.

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
    """Initialise the process group, unless this process is alone or has joined.

    Args:
        device: The device of this process; GPUs communicate by NCCL, CPUs by gloo.

    Raises:
        UserError: a variable of the launcher is missing, or the other processes do not join.
    """
    if world_size() == 1 or distributed.is_initialized():
        return
    by_srun = _by_srun()
    rank = _number("SLURM_PROCID") if by_srun else _rank_in_environment()
    host, port = _slurm_address() if by_srun else _address()
    size = world_size()
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
            f"process {rank} of {size} cannot join the others at {host}:{port}: {line}; "
            "MASTER_ADDR and MASTER_PORT must be the address of the first process"
        ) from error


def largest(value: int) -> int:
    """The largest `value` of all processes, a collective call that waits for no GPU."""
    if world_size() == 1:
        return value
    result = torch.tensor(value)
    distributed.all_reduce(result, distributed.ReduceOp.MAX, group=_gloo_group())
    return int(result)


def gathered(value: Any) -> list[Any]:
    """The `value` of each process in the order of ranks, a collective call."""
    if not _joined():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def peer_lost(error: BaseException) -> bool:
    """Whether an error, or one of its causes, means that another process has ended or hangs."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        if _means_peer_lost(cause):
            return True
        cause = cause.__cause__
    return False


def _means_peer_lost(error: BaseException) -> bool:
    if isinstance(error, distributed.DistBackendError):
        return any(text in str(error) for text in NCCL_LOST)
    # The store is in the first process.
    if isinstance(error, distributed.DistStoreError | distributed.DistNetworkError):
        return True
    return type(error) is RuntimeError and any(text in str(error) for text in PEER_LOST)


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _gloo_group() -> distributed.ProcessGroup | None:
    """The gloo group of all processes, created at the first call; None if it is the default."""
    world = distributed.group.WORLD
    if world is None or distributed.get_backend() == "gloo":
        return None
    if world not in _gloo:
        _gloo[world] = distributed.new_group(backend="gloo")
    return _gloo[world]


def _by_srun() -> bool:
    """Whether srun has started this process, by Lightning's rule; torchrun may run inside of it.

    The variables of a batch script do not count: it is one process, whatever tasks it requests.
    """
    if distributed.is_available() and distributed.is_torchelastic_launched():
        return False
    return {"SLURM_NTASKS", "SLURM_STEP_ID"} <= os.environ.keys() and SLURMEnvironment.detect()


def _rank_in_environment() -> int:
    """RANK, or on the first machine, where Lightning's launcher does not set it, LOCAL_RANK."""
    on_first_machine = os.environ.get("NODE_RANK", "0") == "0"
    return _number("LOCAL_RANK" if on_first_machine and "RANK" not in os.environ else "RANK")


def _slurm_address() -> tuple[str, int]:
    """Address and port of the first process by Lightning's rule, without the variables it sets."""
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


def _address() -> tuple[str, int]:
    return _variable("MASTER_ADDR"), _number("MASTER_PORT")


def _number(name: str) -> int:
    text = _variable(name)
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}, which is not a number")
    return int(text)


def _variable(name: str) -> str:
    if not (text := os.environ.get(name)):
        raise UserError(
            f"for training in several processes the environment variable {name} is not set; start "
            "them with torchrun or srun"
        )
    return text
