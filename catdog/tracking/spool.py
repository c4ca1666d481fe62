"""Writes to a run: sent at once, or kept in a folder until the tracking server takes them.

A write that does not arrive is kept, whatever the reason is. What is kept is sent again in order:
now and then while the training goes on, before a model is registered, at the end of the run, and
when the run is resumed.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from catdog.files import atomic_write
from catdog.tracking.store import QUICK, first_line, limits

logger = logging.getLogger(__name__)

Kind = Literal["params", "tags", "metrics", "inputs", "artifact"]

PAUSE = 15.0
"""Seconds, at least, after which what is kept is sent again while the training goes on."""

SHARE = 0.1
"""Of the training's time, at most, that a server which takes nothing may cost."""

PATIENCE = 3.0
"""Seconds after which a try ends with the next write that fails, while the training waits."""

LAST_TRY = 30.0
"""Seconds that a server which is away is waited for when the training waits no more."""


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

    def __str__(self) -> str:
        """What it is, as people are told."""
        names = [self.content] if isinstance(self.content, str) else list(self.content)
        first = next((one if isinstance(one, str) else one[0] for one in names), "")
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{self.kind} {first}{more}"


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

    def kept(self) -> list[Write]:
        """What has not arrived, the oldest first."""
        return [_read(path) for path in self._paths()]

    def write(self, write: Write) -> None:
        """Send a write, or keep it where that fails, or others wait before it."""
        if not self._paths():
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
                self._send_kept(PATIENCE)
            now = time.monotonic()
            self._next_try = now + max(PAUSE, (now - began) / SHARE)

    def send(self, patience: float) -> bool:
        """Send all that is kept, and return whether all of it arrived.

        Args:
            patience: seconds for which a server that is away is waited for. One that answers, and
                does not take something, is not; what stands behind that is sent then. With none,
                the first write that fails ends it.
        """
        until = time.monotonic() + patience
        while not self._send_kept(math.inf if patience else 0.0):
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

    def _send_kept(self, patience: float) -> bool:
        """Try everything once, in order; whether all of it arrived.

        A write that is refused holds up none behind it. A server that is away ends the try, and
        so does a write that fails after `patience` seconds.
        """
        until = time.monotonic() + patience
        paths, arrived = self._paths(), 0
        for path in paths:
            if self._arrives(_read(path)):
                path.unlink()
                arrived += 1
            elif time.monotonic() >= until or not self.server_answers():
                break
        if arrived:
            logger.info(f"The tracking server took {arrived} writes that were kept")
        if arrived < len(paths):
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
            new = [Param(key, value) for key, value in content.items() if key not in known]
            client.log_batch(run_id, params=new)
        case "tags":
            tags = [RunTag(key, str(value)) for key, value in content.items()]
            client.log_batch(run_id, tags=tags)
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*metric) for metric in content])
        case "inputs":
            inputs = [
                DatasetInput(Dataset(**dataset), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
                for context, dataset in content
            ]
            client.log_inputs(run_id, inputs)
        case "artifact":
            folder, _, name = content.rpartition("/")
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch, name)
                path.write_bytes(write.data or b"")
                client.log_artifact(run_id, str(path), folder or None)
