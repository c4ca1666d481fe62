"""The way to a run on the tracking server; what can't be sent is kept in a folder until it can."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from catdog import CatdogError, command

Say = Callable[[str], None]
Kind = Literal["params", "tags", "metrics", "inputs", "artifact"]

LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""How long a write may hold up the training: MLflow's own limits add up to many minutes."""

ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
PROBE = ONCE | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""For a model, which a server with a slow store behind it is long in taking."""

PAUSE = 15.0
"""Seconds after which the server is tried again."""

PROBE_SHARE = 0.1
"""Of the time, at most, for which a server that swallows every question may hold up training."""

LAST_TRY = 30.0
"""Seconds for which the server is tried at the end of a run."""

UNREACHED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
    TimeoutError,
)
TRY_LATER = {408, 429}
FULL = {errno.ENOSPC, errno.EDQUOT}


def unreachable(error: BaseException) -> bool:
    """Whether an error says that the server can't be reached now, and not that it refuses.

    A database that is busy or away counts, too, and a disk that is full.
    """
    return any(_is_of_the_way(one) for one in _with_causes(error))


@contextlib.contextmanager
def limits(values: dict[str, str], *, keep_set: bool = False) -> Iterator[None]:
    """Give MLflow's requests other limits for a while.

    Args:
        values: environment variables, which MLflow reads at each request.
        keep_set: whether what the user has set stays.
    """
    changed = {k: v for k, v in values.items() if not keep_set or os.environ.get(k) == LIMITS[k]}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


@dataclass(frozen=True)
class Write:
    """One write to a run, which may be sent twice without harm.

    `content` is JSON: names and values of params and tags, [name, value, milliseconds, step] of
    metrics, [context, data set] of inputs, and the name of an artifact, whose bytes are `data`.
    """

    run_id: str
    kind: Kind
    content: Any
    data: bytes | None = None


class Outbox:
    """Sends the writes to a run in order, and keeps those that can't be sent.

    The folder holds `writes.jsonl`, a line for each write, and `files/`; when all is sent it goes.
    """

    def __init__(self, folder: Path, say: Say = command.say) -> None:
        """`folder` is made when the first write must be kept; `say` tells when that is."""
        self.folder = folder
        self._say = say
        self._next_try = 0.0

    @property
    def empty(self) -> bool:
        """Whether everything has been sent."""
        return not self._lines.is_file()

    def write(self, write: Write) -> None:
        """Send a write, or keep it where the server can't be reached.

        Raises:
            CatdogError: the server refuses it.
        """
        if not self.empty and not self._probe():
            self._keep(write)
            return
        try:
            _deliver(write)
        except Exception as error:
            if not unreachable(error):
                raise _refused(write, error) from error
            self._say(
                f"The tracking server can't take anything now ({_first_line(error)}). Training "
                f"goes on; what is logged is kept in {self.folder} and sent when it is back"
            )
            self._next_try = time.monotonic() + PAUSE
            self._keep(write)

    def send_all(self, patience: float = LAST_TRY) -> bool:
        """Send what is kept, and return whether all of it went.

        Args:
            patience: seconds for which a server that can't be reached is tried again.

        Raises:
            CatdogError: the server refuses a write, which stays first in the folder.
        """
        until = time.monotonic() + patience
        while not self.empty:
            with limits(ONCE):
                sent = self._send()
            if not sent and time.monotonic() >= until:
                return False
            if not sent:
                time.sleep(min(1.0, patience))
        return True

    @property
    def _lines(self) -> Path:
        return self.folder / "writes.jsonl"

    def _probe(self) -> bool:
        """Try to send what is kept, now and then; whether the way is free."""
        began = time.monotonic()
        if began < self._next_try:
            return False
        with limits(PROBE):
            sent = self._send()
        now = time.monotonic()
        self._next_try = now + max(PAUSE, (now - began) / PROBE_SHARE)
        return sent

    def _send(self) -> bool:
        """Send what is kept until the server can't be reached; whether all of it went."""
        lines = self._lines.read_text(encoding="utf-8").splitlines()
        sent = 0
        try:
            while sent < len(lines) and self._arrives(self._read(lines[sent])):
                sent += 1
        finally:
            self._forget(lines[:sent], lines[sent:])
        if sent == len(lines):
            self._say(f"The tracking server is back: {sent} kept writes are sent")
        return sent == len(lines)

    def _arrives(self, write: Write | None) -> bool:
        if write is None:
            return True
        try:
            _deliver(write)
        except Exception as error:
            if unreachable(error):
                return False
            raise CatdogError(
                f"{_refused(write, error)} It is kept in {self.folder}; delete that folder "
                "to go on without what it holds."
            ) from error
        return True

    def _keep(self, write: Write) -> None:
        line: dict[str, Any] = {"run": write.run_id, "kind": write.kind, "content": write.content}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if write.data is not None:
                line["file"] = f"files/{time.time_ns()}"
                path = self.folder / line["file"]
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(write.data)
            with self._lines.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                os.fsync(lines.fileno())
        except OSError as error:
            self._say(f"{write.kind} can't be kept in {self.folder} either: {error.strerror}")

    def _read(self, line: str) -> Write | None:
        """The write of a line; None for one that was cut off when the power went."""
        try:
            kept = json.loads(line)
            data = (self.folder / kept["file"]).read_bytes() if "file" in kept else None
            return Write(kept["run"], kept["kind"], kept["content"], data)
        except (ValueError, KeyError, FileNotFoundError):
            self._say(f"A line of {self._lines} is damaged and left out: {line[:80]}")
            return None

    def _forget(self, sent: list[str], rest: list[str]) -> None:
        if not rest:
            shutil.rmtree(self.folder)
            return
        shorter = self._lines.with_suffix(".part")
        shorter.write_text("".join(f"{line}\n" for line in rest), encoding="utf-8")
        shorter.replace(self._lines)
        for line in sent:
            with contextlib.suppress(ValueError, KeyError):
                (self.folder / json.loads(line)["file"]).unlink(missing_ok=True)


def _deliver(write: Write) -> None:
    client = MlflowClient()
    run_id, content = write.run_id, write.content
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


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # MLflow raises some of its own without naming what they come from.
        error = error.__cause__ or error.__context__


def _is_of_the_way(error: BaseException) -> bool:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _is_passing(error.response.status_code)
    if isinstance(error, RestException):
        return _is_passing(error.get_http_status_code())
    if isinstance(error, MlflowException):
        # 500 is what MLflow calls its own mistakes, too.
        return error.get_http_status_code() in {429, 503, 504}
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return isinstance(error, UNREACHED)


def _is_passing(status: int) -> bool:
    return status >= 500 or status in TRY_LATER


def _refused(write: Write, error: Exception) -> CatdogError:
    return CatdogError(
        f"MLflow refuses {write.kind} of run {write.run_id}: {_first_line(error)}. "
        "Check MLFLOW_TRACKING_URI and what you may do there."
    )


def _first_line(error: BaseException) -> str:
    """What happened at the root, without the nested layers that carried it."""
    *_, root = _with_causes(error)
    line = (str(root).splitlines() or [type(root).__name__])[0].rstrip(".")
    return without_password(line)


def without_password(text: str) -> str:
    """A text as people may see it, whatever address of a server it quotes."""
    return re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)
