"""One write on its way to a run, and what it means when it does not arrive.

There are three answers. The server is *away*: the same write is worth another try in a while, and
no other one is until then. It *refuses* this write: others may still be taken, and this one, too,
when a token is renewed or a limit raised. Or the run is *gone*, and nothing will be taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from catdog import CatdogError

MlflowError = MlflowException
"""What MLflow raises, for rooms that do not import it."""

Kind = Literal["params", "tags", "metrics", "inputs", "artifact"]
Standing = Literal["there", "gone", "silent"]

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

UNREACHED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
    TimeoutError,
)
TRY_LATER = {408, 429, 502, 503, 504}
"""What a server, or a gateway before it, answers that has no time now."""

GIVEN_UP = re.compile(r"too many (\d{3}) error responses")
"""How urllib3 tells the status behind a request that was tried again until that was too much."""

FULL = {errno.ENOSPC, errno.EDQUOT}
SHOWN = 3
"""Names of metrics or tags of a write that people are told."""


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

    def __str__(self) -> str:
        """What it is, as people are told."""
        if isinstance(self.content, str):
            return f"{self.kind} {self.content}"
        names = [one if isinstance(one, str) else str(one[0]) for one in self.content]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{self.kind} {', '.join(names[:SHOWN])}{more}"


class AwayError(Exception):
    """The server can't take anything now; the text says why."""


class RefusedError(Exception):
    """The server does not take this write; the text says why, `status` what kind of why it is."""

    def __init__(self, reason: str, status: str) -> None:
        super().__init__(reason)
        self.status = status


def deliver(write: Write) -> None:
    """Send a write.

    Where a server says that it has no time (408, 429, 502, 503, 504), where its database is
    locked, or where the disk is full here, it counts as away.

    A way that broke, an answer that never came and a status like 500 may be of a server that is
    away, and of a single file that it chokes on or hangs up at. So the server is asked for the
    run: where it is silent it is away. Where it answers, the write is tried once more, since a
    way may break by chance, and then counts as refused.

    All else is a refusal of this write: 400, 401, 403, 404, 413, and what other stores of
    artifacts raise, whose errors are their own. Except where the server says that the run was
    deleted or never was: then no write will ever be taken.

    Raises:
        AwayError: the server can't take anything now.
        RefusedError: it does not take this write.
        CatdogError: the run is gone.
    """
    for last in (False, True):
        try:
            with limits(ONCE) if last else contextlib.nullcontext():
                _send(write)
                return
        except Exception as error:
            refusal = _judged(write, error)
            if last or not unreachable(error):
                raise refusal from error


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


def first_line(error: BaseException) -> str:
    """What happened at the root, without the nested layers that carried it, and the long URL."""
    *_, root = _with_causes(error)
    line = (str(root).splitlines() or [type(root).__name__])[0].rstrip(".")
    return without_password(line.partition(" for url: ")[0])


def without_password(text: str) -> str:
    """A text as people may see it, whatever address of a server it quotes."""
    return re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)


def _send(write: Write) -> None:
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


def _judged(write: Write, error: Exception) -> RefusedError:
    """The refusal that an error stands for; what else it may stand for is raised."""
    reason = first_line(error)
    if unreachable(error) and not _is_unclear(error):
        raise AwayError(reason) from error
    standing = _standing(write.run_id)
    if standing == "gone":
        raise CatdogError(
            f"MLflow refuses {write.kind} of run {write.run_id}, which it does not have, or which "
            f"was deleted ({reason}): restore it, or begin a new one."
        ) from error
    if standing == "silent" and unreachable(error):
        raise AwayError(reason) from error
    return RefusedError(reason, str(_status(error) or type(error).__name__))


def _is_unclear(error: BaseException) -> bool:
    """Whether an error may be of a server that is away, and of this one write as well."""
    status = _status(error)
    if status is None:
        return any(isinstance(one, UNREACHED) for one in _with_causes(error))
    return status >= 500 and status not in TRY_LATER


def _standing(run_id: str) -> Standing:
    """What the server says when it is asked for a run: there, also where it refuses to tell."""
    try:
        with limits(PROBE):
            run = MlflowClient().get_run(run_id)
    except Exception as error:
        if unreachable(error):
            return "silent"
        # A gateway's own 404 looks like MLflow's, and says nothing of the run.
        is_mlflows = isinstance(error, RestException) or not _is_http()
        known = getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST"
        return "there" if known or not is_mlflows else "gone"
    return "there" if run.info.lifecycle_stage == "active" else "gone"


def _is_http() -> bool:
    return mlflow.get_tracking_uri().startswith("http")


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


def _status(error: BaseException) -> int | None:
    """The HTTP status that a server answered with; None where that is not known."""
    for one in _with_causes(error):
        if isinstance(one, requests.HTTPError) and one.response is not None:
            return one.response.status_code
        if isinstance(one, requests.exceptions.RetryError):
            found = GIVEN_UP.search(str(one))
            return int(found[1]) if found else None
        if isinstance(one, RestException):
            return int(one.get_http_status_code())
    return None
