"""How many processes torchrun has started, and which one this is; or start them as it does."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import uuid

import psutil

from catdog import CatdogError


def key() -> str:
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


def restarts() -> int:
    """How often torchrun has started all processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Whether torchrun will start this process once more if it fails."""
    return restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def must_start(processes: int) -> bool:
    """Whether the processes are still to be started.

    Raises:
        CatdogError: torchrun has started another number of them.
    """
    if processes == 1 or processes == size():
        return False
    if size() > 1:
        raise CatdogError(
            f"processes={processes}, but torchrun has started {size()}: leave processes out."
        )
    return True


def start(processes: int) -> int:
    """Start this command `processes` times, as torchrun would; the exit status."""
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
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 1
    return 0


def size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))
