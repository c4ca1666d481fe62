"""Several processes that train as one: all that knows of `torch.distributed`.

Each runs the same program, as torchrun starts it; rank 0 alone logs, writes checkpoints and
registers. In a process alone everything here does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import psutil
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from catdog import CatdogError
from catdog.data.loaders import Share
from catdog.parallel import cores

Number = TypeVar("Number", bound=np.generic)

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others within a step, or at the end of an epoch."""

PATIENCE = datetime.timedelta(days=1)
"""How long it waits for those whose share of the feature pass takes longer."""


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that logs, writes checkpoints and registers."""
    return rank() == 0


def share() -> Share:
    """Which part of what is shared is this process's."""
    return Share(rank(), world_size())


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Train together with the other processes, if there are any.

    Raises:
        CatdogError: another process is gone.
    """
    if world_size() == 1:
        yield
        return
    torch.set_num_threads(cores())
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    # torchrun's store outlives a restart, and remembers where those before listened.
    fresh = PrefixStore(f"restart {_restarts()}", store)
    # What is gathered lies on the CPU; gradients on GPUs have a group of their own.
    dist.init_process_group("gloo", store=fresh, rank=number, world_size=size, timeout=TIMEOUT)
    try:
        yield
        dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_of_exchange(error):
            raise
        for number in (signal.SIGINT, signal.SIGTERM):
            # torchrun, which names who is gone, ends the others too.
            signal.signal(number, signal.SIG_IGN)
        reason = str(error).partition("\n")[0]
        raise CatdogError(
            f"rank {rank()} of {world_size()} has lost the connection to another one ({reason})."
        ) from error


def barrier(timeout: datetime.timedelta = TIMEOUT) -> None:
    """Wait until all are here; who is missing after `timeout` is named."""
    if world_size() > 1:
        dist.monitored_barrier(timeout=timeout, wait_all_ranks=True)


def all_gather(mine: NDArray[Number]) -> NDArray[Number]:
    """What all ranks have, `(n, ...)` each and any n, one after the other."""
    if world_size() == 1:
        return mine
    barrier()
    counts = _gather_alike(torch.tensor([len(mine)]))
    # Parts are exchanged as tensors of one size, and never as objects, which would be pickles.
    padded = np.zeros((int(max(counts)), *mine.shape[1:]), mine.dtype)
    padded[: len(mine)] = mine
    parts = _gather_alike(torch.from_numpy(padded))
    return np.concatenate(
        [part[: int(n)].numpy() for part, n in zip(parts, counts, strict=True)], dtype=mine.dtype
    )


def from_main(text: str) -> str:
    """The text that rank 0 has, on all ranks."""
    if world_size() == 1:
        return text
    mine = np.frombuffer(text.encode() if is_main() else b"", dtype=np.uint8)
    return all_gather(mine).tobytes().decode()


def _gather_alike(mine: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of all ranks, which are of one shape and type, and lie on the CPU."""
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return parts


def data_parallel(model: nn.Module) -> nn.Module:
    """The model with gradients that are averaged over all ranks, and rank 0's weights on all."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type != "cuda":
        return DistributedDataParallel(model)
    own = [torch.cuda.current_device()]
    return DistributedDataParallel(
        model, device_ids=own, process_group=dist.new_group(backend="nccl")
    )


def must_launch(processes: int) -> bool:
    """Whether the processes are still to be started.

    Raises:
        CatdogError: torchrun has started another number of them.
    """
    if processes in (1, world_size()):
        return False
    if world_size() > 1:
        raise CatdogError(
            f"processes={processes}, but torchrun has started {world_size()}: leave processes out."
        )
    return True


def launch(processes: int) -> int:
    """Start this command `processes` times, as torchrun would; the exit status.

    Raises:
        CatdogError: one of them was killed.
        KeyboardInterrupt: a signal came, and they were told to end.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        failed, first = error.get_first_failure()
        if first.exitcode >= 0:
            return first.exitcode  # it has said why itself
        raise CatdogError(
            f"rank {failed} of {processes} (process id {first.pid}) was killed by "
            f"{signal.Signals(-first.exitcode).name}: mostly that is want of memory, for which "
            "fewer processes or a smaller batch_size help."
        ) from error
    return 0


def launch_id() -> str:
    """What a process and those that torchrun restarts in its place have in common; or empty.

    That is torchrun's --rdzv-id, where it is given: so each training needs one of its own.
    """
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    if given is None or given != "none":
        return given or ""
    # Without --rdzv-id, it is the torchrun that they were started by.
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        return f"{socket.gethostname()}-{parent.pid}-{parent.create_time():.2f}"
    return ""


def may_restart() -> bool:
    """Whether torchrun will start this process once more if it fails."""
    return _restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def _restarts() -> int:
    """How often torchrun has started all processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _is_of_exchange(error: RuntimeError) -> bool:
    """Whether an exchange between processes has failed; Gloo says so only in the text."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "monitoredbarrier" in text
