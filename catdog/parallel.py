"""Work done side by side, answered in order, with only a few items in hand at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AHEAD = 4
"""Items in hand for each thread: enough that none waits, few enough to fit into memory."""


def cores() -> int:
    """The cores for this process: a fair share where torchrun has started several here."""
    return max(1, (os.cpu_count() or 1) // local_size())


def local_size() -> int:
    """How many of the team's processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class _OneCoreEach:
    """While someone is inside, PyTorch keeps to one core in each thread.

    Several may be inside at once, as when two requests are answered: who comes second must not
    take the first one's single core for what is to be restored.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_raised: object) -> None:
        with self._lock:
            self._inside -= 1
            # Also before the last is out: the number holds for the thread that sets it, and
            # for those that begin after.
            torch.set_num_threads(self._before)


ONE_CORE_EACH = _OneCoreEach()
"""To be entered with `with`, by as many at once as like."""


def in_order(
    work: Callable[[Item], Answer], items: Iterable[Item], *, threads: int | None = None
) -> Iterator[Answer]:
    """The answer of `work` for each item, in the order of `items`.

    Items are taken only a few ahead of the answers, so that memory stays flat however many
    there are. PyTorch keeps to one core in each thread meanwhile. (NumPy does not: leave products
    of matrices to PyTorch.) An exception of
    `work` is raised where its answer was due, and what is still waiting is dropped.

    Args:
        work: called in the threads.
        items: gone through once, in the calling thread.
        threads: how many; without, one more than there are cores, so that one of them can
            wait while the others compute.
    """
    workers = threads or cores() + 1
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Answer]] = deque()
    # Resizing on all cores at once, in each of the threads, would only wait.
    with ONE_CORE_EACH:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
