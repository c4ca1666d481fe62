"""The way to a run on the tracking server; what can't be sent is kept in a folder until it can.

While the server is away, all that follows is kept, in order. What it refuses is set aside: all
else goes on, and at the end that is tried again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from catdog.files import atomic_write
from catdog.tracking.delivery import ONCE, PROBE, AwayError, RefusedError, Write, deliver, limits

logger = logging.getLogger(__name__)


PAUSE = 15.0
"""Seconds after which the server is tried again."""

PROBE_SHARE = 0.1
"""Of the time, at most, for which a server that swallows every question may hold up training."""

LAST_TRY = 30.0
"""Seconds for which the server is tried at the end of a run."""


class Outbox:
    """Sends the writes to a run in order, and keeps those that can't be sent.

    The folder holds a line for each write, in `writes.jsonl` what waits for the server and in
    `refused.jsonl` what it refused, and `files/`; when all is sent it goes.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is made when the first write must be kept."""
        self.folder = folder
        self._next_try = 0.0
        self._waiting = _Kept(folder, "writes.jsonl")
        self._refused = _Kept(folder, "refused.jsonl")
        self._told: set[tuple[str, str]] = set()

    @property
    def empty(self) -> bool:
        """Whether everything has been sent."""
        return not self.waiting and not self._refused

    @property
    def waiting(self) -> bool:
        """Whether something waits for a server that is away."""
        return bool(self._waiting)

    def refused(self) -> list[str]:
        """What the server refused, each with its reason, the oldest first."""
        return [
            f"{Write(one['run'], one['kind'], one['content'])} ({one['refused']})"
            for one in _parsed(self._refused.lines())
        ]

    def metrics(self) -> list[list[Any]]:
        """The metrics that are kept: [name, value, milliseconds, step] of each."""
        lines = [*self._waiting.lines(), *self._refused.lines()]
        return [
            metric
            for one in _parsed(lines)
            if one["kind"] == "metrics"
            for metric in one["content"]
        ]

    def forget_tag(self, run_id: str, name: str) -> None:
        """Send no value of a tag that was refused."""
        self._forget_older(Write(run_id, "tags", {name: ""}))

    def write(self, write: Write) -> None:
        """Send a write, or keep it where the server is away, or refuses it.

        Raises:
            CatdogError: the run is gone (see `catdog.tracking.delivery.deliver`).
        """
        if self.waiting and not self._probe():
            self._waiting.add(write)
            return
        try:
            self._pass(write)
        except AwayError as error:
            logger.info(
                f"The tracking server can't take anything now ({error}). Training "
                f"goes on; what is logged is kept in {self.folder} and sent when it is back"
            )
            self._next_try = time.monotonic() + PAUSE
            self._waiting.add(write)

    def send_all(self, patience: float = LAST_TRY) -> bool:
        """Send what is kept, and return whether all of it went.

        What was refused is tried once, when nothing waits any more.

        Args:
            patience: seconds for which a server that is away is tried again.

        Raises:
            CatdogError: the run is gone; what is kept stays.
        """
        until = time.monotonic() + patience
        while self.waiting:
            with limits(ONCE):
                sent = self._send()
            if not sent and time.monotonic() >= until:
                return False
            if not sent:
                time.sleep(min(1.0, patience))
        with limits(ONCE):
            self._try_refused()
        return self.empty

    def _probe(self) -> bool:
        """Try to send what waits, now and then; whether the way is free."""
        began = time.monotonic()
        if began < self._next_try:
            return False
        with limits(PROBE):
            sent = self._send()
        now = time.monotonic()
        self._next_try = now + max(PAUSE, (now - began) / PROBE_SHARE)
        return sent

    def _send(self) -> bool:
        """Send what waits until the server is away; whether nothing waits any more."""
        lines = self._waiting.lines()
        passed = sent = 0
        try:
            for line in lines:
                write = self._waiting.read(line)
                sent += write is not None and self._pass(write)
                passed += 1
        except AwayError:
            return False
        finally:
            if passed:
                self._waiting.leave(lines[passed:])
        logger.info(f"The tracking server is back: {sent} kept writes are sent")
        return True

    def _pass(self, write: Write) -> bool:
        """Send a write, or set it aside where it is refused; whether it was sent."""
        try:
            deliver(write)
        except RefusedError as error:
            self._refused.add(write, refused=str(error))
            self._tell(write, error)
            return False
        self._forget_older(write)
        return True

    def _tell(self, write: Write, error: RefusedError) -> None:
        """Say once for each kind of refusal what is refused, and what comes of it."""
        kind = (write.kind, error.status)
        if kind not in self._told:
            self._told.add(kind)
            logger.warning(
                f"the tracking server REFUSES {write} ({error}). Training goes on; what "
                f"is refused is kept in {self.folder} and tried again at the end. Till then the "
                "token may be renewed, or the limit raised"
            )

    def _forget_older(self, write: Write) -> None:
        """Take out of what was refused what a write that arrived has made outdated."""
        if write.kind not in ("tags", "artifact") or not self._refused:
            return
        lines = self._refused.lines()
        left = [line for line in (_without(line, write) for line in lines) if line]
        if left != lines:
            self._refused.leave(left)

    def _try_refused(self) -> None:
        """Send what was refused, in order; what still is stays, with the reason of now."""
        lines, left = self._refused.lines(), []
        for number, line in enumerate(lines):
            write = self._refused.read(line)
            try:
                if write is not None:
                    deliver(write)
            except RefusedError as error:
                left.append(json.dumps(json.loads(line) | {"refused": str(error)}))
            except AwayError:
                left += lines[number:]
                break
        if lines:
            self._refused.leave(left)
        if len(left) < len(lines):
            logger.info(f"{len(lines) - len(left)} writes that were refused are sent now")


class _Kept:
    """Writes on disk: a line for each in a file, and the bytes of artifacts beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, folder / name

    def __bool__(self) -> bool:
        return self._path.is_file()

    def lines(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines() if self else []

    def add(self, write: Write, **more: str) -> None:
        line: dict[str, Any] = {"run": write.run_id, "kind": write.kind, "content": write.content}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if write.data is not None:
                line["file"] = f"files/{time.time_ns()}"
                path = self._folder / line["file"]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(write.data)
            # A line that was cut, as the disk was full or the power gone, spoils no other one.
            begin = "" if self._ends_whole() else "\n"
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(begin + json.dumps(line | more) + "\n")
                lines.flush()
                os.fsync(lines.fileno())
        except OSError as error:
            logger.info(f"{write.kind} can't be kept in {self._folder} either: {error.strerror}")

    def _ends_whole(self) -> bool:
        if not self or not self._path.stat().st_size:
            return True
        with self._path.open("rb") as lines:
            lines.seek(-1, os.SEEK_END)
            return lines.read() == b"\n"

    def read(self, line: str) -> Write | None:
        """The write of a line; None for one that was cut off when the power went."""
        try:
            kept = json.loads(line)
            data = (self._folder / kept["file"]).read_bytes() if "file" in kept else None
            return Write(kept["run"], kept["kind"], kept["content"], data)
        except (ValueError, KeyError, FileNotFoundError):
            logger.info(f"A line of {self._path} is damaged and left out: {line[:80]}")
            return None

    def leave(self, lines: list[str]) -> None:
        """Forget all but these lines, and the bytes of the others; without any, the file goes.

        On a disk that is full all stay, and are sent once more, which does no harm.
        """
        gone = _files(self.lines()) - _files(lines)
        try:
            if lines:
                with atomic_write(self._path) as part:
                    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            else:
                self._path.unlink(missing_ok=True)
            for name in gone:
                (self._folder / name).unlink(missing_ok=True)
            if not any(self._folder.glob("*.jsonl")):
                shutil.rmtree(self._folder)
        except OSError as error:
            logger.info(f"What was sent can't be taken out of {self._path}: {error.strerror}")


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    """What lines say; those that were cut off when the power went say nothing."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _files(lines: list[str]) -> set[str]:
    """The names of the files that lines speak of."""
    return {one["file"] for one in _parsed(lines) if "file" in one}


def _without(line: str, newer: Write) -> str:
    """A kept line without what a newer write says, too; empty when nothing is left."""
    with contextlib.suppress(ValueError, KeyError):
        kept = json.loads(line)
        if kept["kind"] != newer.kind:
            return line
        if newer.kind == "artifact":
            return "" if kept["content"] == newer.content else line
        content = {key: value for key, value in kept["content"].items() if key not in newer.content}
        if content != kept["content"]:
            return json.dumps(kept | {"content": content}) if content else ""
    return line
