"""SIGINT and SIGTERM end the program at once: what it has on disk by then is whole."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

TOGETHER_S = 1.0
"""Signals within a second are one request: on Ctrl-C the terminal sends SIGINT to all of
`mlflow run`, which then sends SIGTERM to what it had started."""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM raise KeyboardInterrupt."""
    last = float("-inf")

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > TOGETHER_S:
            last = time.monotonic()
            raise KeyboardInterrupt

    # What runs in the background was told to ignore SIGINT, and still shall.
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def ignore() -> None:
    """Hear no SIGINT and SIGTERM any more, until who handles them now hands them back."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
