"""Writes to a run: sent at once, or kept in a folder until the tracking server takes them.

A write that does not arrive is kept, whatever the reason is. What is kept is sent again in order:
now and then while the training goes on, before a model is registered, at the end of the run, and
when the run is resumed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from catdog.files import atomic_write
from catdog.tracking.store import PROMPT, QUICK, first_line, limits

logger = logging.getLogger(__name__)

Kind = Literal["params", "tags", "metrics", "inputs", "artifact"]

PAUSE = 15.0
"""Seconds, at least, after which what is kept is sent again while the training goes on."""

SHARE = 0.1
"""Of the training's time, at most, that a server which takes nothing may cost."""

PATIENCE = 3.0
"""Seconds that failing writes may cost at a time, while the training waits."""

LAST_TRY = 30.0
"""Seconds that a server which is away is waited for when the training waits no more."""

SHOWN = 3
"""Names of metrics or tags of a write that people are told."""


@dataclass(frozen=True)
class Write:
    """One write to a run, which may be sent twice without harm.

    `content` is JSON: names and values of params and tags, [name, value, milliseconds, step] of
    metrics (and [logged model, data set, its digest] where they are tied to one), [context, data
    set] of inputs, and the name of an artifact, whose bytes are `data`.
    """

    kind: Kind
    content: Any
    data: bytes | None = None

    def names(self) -> list[str]:
        """The names of what is written."""
        if isinstance(self.content, str):
            return [self.content]
        return [one if isinstance(one, str) else str(one[0]) for one in self.content]

    def replaces(self) -> set[tuple[str, str]]:
        """What holds the newest value alone: tags and artifacts, each with its name."""
        return {(self.kind, name) for name in self.names() if self.kind in ("tags", "artifact")}

    def __str__(self) -> str:
        """What it is, as people are told."""
        names = self.names()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{self.kind} {', '.join(names[:SHOWN])}{more}"


class Spool:
    """The writes to a run on their way to the tracking server.

    The folder holds a numbered file for each that is kept: a line of JSON, and after it the bytes
    of an artifact. It goes when everything has arrived.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        """`folder` is made when the first write must be kept."""
        self.run_id, self.folder = run_id, folder
        self.reason = ""  # why the last write that failed did
        self._next_try = 0.0

    @property
    def empty(self) -> bool:
        """Whether everything has arrived."""
        return not self._paths()

    def kept(self) -> list[Write]:
        """What has not arrived, the oldest first."""
        return [_read(path) for path in self._paths()]

    def write(self, write: Write) -> None:
        """Send a write, or keep it where that fails, or others wait before it."""
        if self.empty:
            if self._arrives(write):
                return
            self._next_try = time.monotonic() + PAUSE
            logger.warning(
                f"the tracking server does not take {write} ({self.reason}). Training goes on; "
                f"what is logged is kept in {self.folder} and sent later"
            )
        self._keep(write)
        began = time.monotonic()
        if began >= self._next_try:
            with limits(QUICK):
                self._send_kept(PATIENCE, lambda: True)
            now = time.monotonic()
            self._next_try = now + max(PAUSE, (now - began) / SHARE)

    def send(self, patience: float) -> bool:
        """Send all that is kept, and return whether all of it arrived.

        Args:
            patience: seconds for which a server that is away is waited for. One that answers,
                and does not take something, is not; what stands behind that is sent then, unless
                nobody has any patience.
        """
        until = time.monotonic() + patience

        def stop() -> bool:
            return not (patience and self.server_answers())

        with limits(PROMPT):
            while not self._send_kept(max(PATIENCE, patience), stop):
                if time.monotonic() >= until or self.server_answers():
                    return False
                time.sleep(min(1.0, patience))
        return True

    def server_answers(self) -> bool:
        """Whether the tracking server tells what it knows of the run."""
        try:
            with limits(QUICK):
                MlflowClient().get_run(self.run_id)
        except Exception as error:
            self.reason = first_line(error)
            return False
        return True

    def _send_kept(self, patience: float, stop: Callable[[], bool]) -> bool:
        """Try everything once, in order; whether all of it arrived.

        One that fails holds up none but those that it would overwrite if it came after them.
        When failing writes have cost `patience` seconds, each further one asks whether to `stop`.
        """
        paths = self._paths()
        arrived: list[Path] = []
        overtaken: set[tuple[str, str]] = set()
        for path in paths:
            began = time.monotonic()
            write = _read(path)
            if overtaken.isdisjoint(write.replaces()) and self._arrives(write):
                arrived.append(path)
                with contextlib.suppress(OSError):  # else it is sent again, which does no harm
                    path.unlink()
                continue
            patience -= time.monotonic() - began
            overtaken |= write.replaces()
            if patience <= 0 and stop():
                break
        if arrived:
            logger.info(f"The tracking server took {len(arrived)} writes that were kept")
        if len(arrived) < len(paths):
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _arrives(self, write: Write) -> bool:
        try:
            _send(self.run_id, write)
        except Exception as error:
            self.reason = first_line(error)
            return False
        return True

    def _keep(self, write: Write) -> None:
        paths = self._paths()
        number = int(paths[-1].name) + 1 if paths else 0
        head = json.dumps({"kind": write.kind, "content": write.content})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / f"{number:08}") as part:
                part.write_bytes(head.encode() + b"\n" + (write.data or b""))
        except OSError as error:
            logger.warning(f"{write} can't be kept in {self.folder} either: {error.strerror}")

    def _paths(self) -> list[Path]:
        """The files of what is kept, the oldest first."""
        return sorted(self.folder.glob("[0-9]*"))


def _read(path: Path) -> Write:
    head, _, data = path.read_bytes().partition(b"\n")
    return Write(**json.loads(head), data=data)


def _send(run_id: str, write: Write) -> None:
    client, content = MlflowClient(), write.content
    match write.kind:
        case "params":
            # Those that the run has already were spelled by `mlflow run`, and can't be changed.
            known = client.get_run(run_id).data.params
            new = [Param(key, str(value)) for key, value in content.items() if key not in known]
            client.log_batch(run_id, params=new)
        case "tags":
            client.log_batch(
                run_id, tags=[RunTag(key, str(value)) for key, value in content.items()]
            )
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*metric) for metric in content])
        case "inputs":
            client.log_inputs(run_id, [_input(context, dataset) for context, dataset in content])
        case "artifact":
            _upload(client, run_id, PurePosixPath(content), write.data or b"")


def _input(context: str, dataset: dict[str, str]) -> DatasetInput:
    return DatasetInput(Dataset(**dataset), [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def _upload(client: MlflowClient, run_id: str, name: PurePosixPath, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name.name
        path.write_bytes(data)
        folder = str(name.parent)
        client.log_artifact(run_id, str(path), None if folder == "." else folder)
