"""Which of several processes live, and how those have ended that do not.

Each leaves signs in a store that all of them see: that it lives, now and then, and why it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S, SILENCE_S, GONE_S = 0.5, 5.0, 30.0
"""How often a process shows that it lives; after how long without it is taken for dead where an
exchange has failed, and where one merely lasts, as when a machine vanishes without a word."""

FAILED, BROKEN, STOPPED = "failed", "broken", "stopped"
"""How a process has ended: with a sentence, with another error, or as it was told to."""


class Signs:
    """The signs of process `rank`, one of `size`, and how it reads those of the others."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """Say who this is, and go on to show that it lives."""
        self._store, self._rank, self._size = store, rank, size
        self._seen: dict[int, tuple[str | None, float]] = {}
        self.note("who", f"process id {os.getpid()} on {socket.gethostname()}")
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        atexit.register(self._rest)

    def note(self, what: str, text: str) -> None:
        """Leave a sign: how this process has ended, and why."""
        with contextlib.suppress(RuntimeError):  # torchrun, whose store it is, may be gone
            self._store.set(f"{what}/{self._rank}", text)

    def vanished(self) -> bool:
        """Whether one of those that follow has not shown for long that it lives."""
        now = time.monotonic()
        for rank in range(1, self._size):
            beat = self._noted("beat", rank)
            before, since = self._seen.get(rank, (None, now))
            self._seen[rank] = (beat, since if beat == before else now)
        return any(now - since > GONE_S for _, since in self._seen.values())

    def lost(self) -> str | None:
        """Who of those that follow has failed or is gone, in a sentence; None when nobody is."""
        with contextlib.suppress(RuntimeError):
            return self._failed(FAILED) or self._silent() or self._failed(BROKEN)
        return None

    def _beat(self) -> None:
        number = 0
        while not self._ended.is_set():
            self.note("beat", str(number))
            number += 1
            self._ended.wait(BEAT_S)

    def _rest(self) -> None:
        """Beat no more, before Python ends: a thread that is in the store by then aborts it."""
        self._ended.set()
        self._beating.join(SILENCE_S)

    def _noted(self, what: str, rank: int) -> str | None:
        key = f"{what}/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _failed(self, how: str) -> str | None:
        for rank in range(1, self._size):
            reason = self._noted(how, rank)
            if reason is not None:
                return f"rank {rank} of {self._size} failed: {reason}"
        return None

    def _silent(self) -> str | None:
        """Who neither lives nor has said why not."""
        quiet = {rank: self._noted("beat", rank) for rank in range(1, self._size)}
        until = time.monotonic() + SILENCE_S
        while quiet and time.monotonic() < until:
            time.sleep(BEAT_S / 5)
            quiet = {
                rank: beat
                for rank, beat in quiet.items()
                if self._noted("beat", rank) == beat
                and not any(self._noted(how, rank) is not None for how in (FAILED, BROKEN, STOPPED))
            }
        if not quiet:
            return None
        rank = min(quiet)
        return (
            f"rank {rank} of {self._size} ({self._noted('who', rank)}) was killed or stopped, or "
            "its machine is gone: mostly that is want of memory, for which fewer processes or a "
            "smaller batch_size help."
        )
