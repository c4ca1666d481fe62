"""SIGINT and SIGTERM: end the program at once, or let it finish what it has in hand first."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], None]

TOGETHER_S = 1.0
"""Signals within a second are one request: on Ctrl-C the terminal sends SIGINT to all of
`mlflow run`, which then sends SIGTERM to what it had started."""


_requested: list[float] = []
"""When the last request came: the clock that all of a process's handlers share."""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM raise KeyboardInterrupt."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if _is_new():
            raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextlib.contextmanager
def after_this() -> Iterator[Callable[[], bool]]:
    """While inside, the first SIGINT or SIGTERM only makes the given function answer True.

    A second one, more than a second later, raises KeyboardInterrupt; so does leaving when nobody
    has acted on the first.
    """
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not _is_new():
            return
        if asked:
            raise KeyboardInterrupt
        asked = True
        logger.info("Stopping after this batch; once more stops at once")

    with _handled_by(note):
        yield lambda: asked
    if asked:
        raise KeyboardInterrupt


def ignore() -> None:
    """Hear no SIGINT and SIGTERM any more, until who handles them now hands them back."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _is_new() -> bool:
    """Whether a signal is a request of its own, and not one with that of a moment ago."""
    now = time.monotonic()
    if _requested and now - _requested[0] <= TOGETHER_S:
        return False
    _requested[:] = [now]
    return True


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    # What runs in the background was told to ignore SIGINT, and still shall.
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    _requested.clear()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
