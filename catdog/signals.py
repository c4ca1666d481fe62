"""SIGINT and SIGTERM: end the program at once, or let it finish what it has in hand first."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

TOGETHER_S = 1.0
"""Signals within a second are one request: on Ctrl-C the terminal sends SIGINT to all of
`mlflow run`, which then sends SIGTERM to what it had started."""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM raise KeyboardInterrupt."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextlib.contextmanager
def after_this(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """While inside, the first SIGINT or SIGTERM only makes the given function answer True.

    A second one, more than a second later, raises KeyboardInterrupt; so does leaving when nobody
    has acted on the first.
    """
    asked: list[float] = []

    def note(_signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if asked and now - asked[0] > TOGETHER_S:
            raise KeyboardInterrupt
        if not asked:
            asked.append(now)
            say("Stopping after this batch; once more stops at once")

    with _handled_by(note):
        yield lambda: bool(asked)
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    # What runs in the background was told to ignore SIGINT, and still shall.
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
