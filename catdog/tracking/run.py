"""The life of a run: it starts or goes on, is written to, registers a model, and ends.

Writes go through `catdog.tracking.outbox`, so that no server that is away, or refuses one of
them, stops the training. What is written, `catdog.tracking.log` knows.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError, interrupts
from catdog.tracking import provenance, store
from catdog.tracking.delivery import PATIENT, PROBE, Kind, Write, first_line, limits, unreachable
from catdog.tracking.notes import resuming
from catdog.tracking.outbox import LAST_TRY, Outbox

ASKED_FOR = ("features_computed", "val_loss")
"""Metrics that are not logged a second time when a run goes on."""

SHOWN = 3
"""Writes that people are told of, where many are not sent."""


@dataclass(frozen=True)
class Before:
    """What a run had when it was resumed: asked once, as the server may be away when it matters.

    `steps` are those of the metrics in `ASKED_FOR`, `metrics` the last values of all.
    """

    steps: Mapping[str, set[int]]
    metrics: Mapping[str, float]


_before: dict[str, Before] = {}
"""Of each run that this process has resumed, by the run's id."""

_outboxes: dict[str, Outbox] = {}
"""The way to each run that this process has open, by the run's id."""


@contextlib.contextmanager
def start_run(
    name: str, data_dir: Path = Path("data"), *, resume: str | None = None
) -> Iterator[mlflow.ActiveRun]:
    """The run that `mlflow run` has begun, else a new one in the experiment `catdog`.

    It ends as FINISHED, as FAILED after an exception, and as KILLED when interrupted. With the
    id of an earlier run in `resume`, that one runs again. What the tracking server can't or does
    not take meanwhile is kept below `data_dir`, in the run's folder.

    Raises:
        CatdogError: the store can't be opened, the run takes nothing at all, or something is
            still not sent at the end.
    """
    store.connect()
    if resume is not None:
        _set_aside(os.environ.pop("MLFLOW_RUN_ID", None), resume)
    elif not os.environ.get("MLFLOW_RUN_ID"):
        mlflow.set_experiment(store.experiment_name())
    with interrupts.at_once(), mlflow.start_run(run_id=resume, log_system_metrics=True) as run:
        folder = run_folder(data_dir, run.info.run_id)
        _outboxes[run.info.run_id] = Outbox(folder / "outbox")
        try:
            if resume is None:
                _begin(name)
            else:
                _go_on(run)
            store.describe_experiment(run.info.experiment_id)
            yield run
        except KeyboardInterrupt:
            _end("KILLED")
            raise
        except BaseException:
            _end("FAILED")
            raise
        _end("FINISHED")


def run_folder(data_dir: Path, run_id: str) -> Path:
    """Where on this machine a run keeps what is not on the server yet."""
    return data_dir / "runs" / run_id


def run_id() -> str:
    """The id of the active run."""
    return str(active_run().info.run_id)


def begun_ms() -> int:
    """When the active run began, in milliseconds since 1970."""
    return int(active_run().info.start_time)


def run_identity() -> str:
    """Which run this is, when it began, and from which commit."""
    info = active_run().info
    began = datetime.fromtimestamp(info.start_time / 1000, UTC)
    state = provenance.git_state()
    changed = " with changes" if state.get("git_dirty") == "true" else ""
    return f"run {info.run_id}, {began:%Y-%m-%d %H:%M} UTC, commit {state['git_commit']}{changed}"


def logged_steps(metric: str) -> set[int]:
    """The steps at which the active run had `metric`, of `ASKED_FOR`, when it was resumed."""
    before = _before.get(run_id())
    return before.steps[metric] if before else set()


def has_logged(metric: str, value: float) -> bool:
    """Whether the active run had `value` as the last one of `metric` when it was resumed."""
    before = _before.get(run_id())
    if before is None or metric not in before.metrics:
        return False
    had = before.metrics[metric]
    return had == value or (math.isnan(had) and math.isnan(value))


def write(kind: Kind, content: Any, data: bytes | None = None) -> None:
    """Write to the active run; see `catdog.tracking.delivery.Write` for what."""
    _outbox().write(Write(run_id(), kind, content, data))


@contextlib.contextmanager
def registering() -> Iterator[None]:
    """For what can't be done without the server: all that is kept is sent first.

    Metrics or pictures that it refuses don't stand in the way of what is done here. What is
    refused here ends it.

    Raises:
        CatdogError: the server can't be reached, before or meanwhile, or refuses what is done
            here; says how to go on later.
    """
    outbox = _outbox()
    send_kept(outbox)
    try:
        with limits(PATIENT, keep_set=True):
            yield
    except (MlflowException, CatdogError, OSError) as error:
        if _is_of_this_machine(error):
            raise _not_here(outbox.folder.parent, error) from error
        if unreachable(error):
            raise _away(outbox) from error
        if isinstance(error, CatdogError):
            raise
        raise _not_registered(outbox.folder.parent, error) from error


def send_kept(outbox: Outbox) -> None:
    """Send what a run could not send; what is refused stays in its outbox.

    Raises:
        CatdogError: the server can't be reached, or the run is gone.
    """
    outbox.send_all()
    if outbox.waiting:
        raise _away(outbox)


def ask_for_run() -> None:
    """Ask the server for the active run, and do nothing with the answer.

    Raises:
        MlflowException: the server can't be reached.
    """
    with limits(PROBE):
        MlflowClient().get_run(run_id())


def status_of(run_id: str) -> str | None:
    """A run's status, RUNNING say; None when the store has no such run, or it was deleted.

    Raises:
        CatdogError: the store does not say.
    """
    store.connect()
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise CatdogError(
            f"the MLflow store {store.shown_uri()} does not say what became of run {run_id} "
            f"({store.told(error)}): try again when it answers."
        ) from error
    return run.info.status if run.info.lifecycle_stage == "active" else None


def _begin(name: str) -> None:
    """Name the run; where even that is refused, raise: nothing is lost by that yet.

    Hours of training would be, for somebody who may read on that server and not write.
    """
    write("tags", {"mlflow.runName": name})
    outbox = _outbox()
    if refused := outbox.refused():
        shutil.rmtree(outbox.folder)
        raise CatdogError(
            f"MLflow refuses {refused[0]} of run {run_id()}. "
            "Check MLFLOW_TRACKING_URI and what you may do there."
        )


def _go_on(run: mlflow.ActiveRun) -> None:
    resumed, outbox = run.info.run_id, _outbox()
    send_kept(outbox)  # so that the run knows all that it has logged
    outbox.forget_tag(resumed, "resume_with")
    data, kept = MlflowClient().get_run(resumed).data, outbox.metrics()
    steps = {metric: _steps_of(resumed, metric) for metric in ASKED_FOR}
    for name, _, _, step in kept:
        steps.get(name, set()).add(step)
    _before[resumed] = Before(steps, data.metrics | {name: value for name, value, _, _ in kept})
    if "resume_with" in data.tags:
        mlflow.delete_tag("resume_with")


def _steps_of(run: str, metric: str) -> set[int]:
    return {measured.step for measured in MlflowClient().get_metric_history(run, metric)}


def active_run() -> mlflow.ActiveRun:
    """The run that this process writes to."""
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("this needs an active run: call it within catdog.tracking.run.start_run")
    return run


def _outbox() -> Outbox:
    return _outboxes[run_id()]


def _end(status: str) -> None:
    """End the active run; one of which something is not sent stays unfinished."""
    outbox, finished = _outbox(), status == "FINISHED"
    try:
        sent = outbox.send_all(LAST_TRY if finished else 0)
    except CatdogError:
        if finished:
            raise
        sent = False  # what ends the run matters more, and is told
    away, why = outbox.waiting, []
    try:
        with contextlib.nullcontext() if sent else limits(PROBE):
            mlflow.end_run("FAILED" if finished and not sent else status)
    except MlflowException as error:
        sent = False
        away = away or unreachable(error)
        why = [f"the end of the run ({first_line(error)})"]
    folder = outbox.folder.parent
    _outboxes.pop(folder.name, None)
    if finished and not sent:
        raise _away(outbox) if away else _refused(outbox, [*outbox.refused(), *why])
    if finished:
        shutil.rmtree(folder / "model", ignore_errors=True)  # which the registry has


def _away(outbox: Outbox) -> CatdogError:
    """What to say of a run when the server can't be reached."""
    folder, refused = outbox.folder.parent, outbox.refused()
    model = folder / "model"
    kept = f"the model in {model}, what was logged" if model.is_dir() else "what was logged"
    before = f" (it refused {_listed(refused)} before)" if refused else ""
    return CatdogError(
        f"the tracking server {store.shown_uri()} can't be reached{before}; kept for it: {kept} "
        f"in {outbox.folder}. When it is back, type: {resuming(folder)}"
    )


def _listed(refused: list[str]) -> str:
    more = f", and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    return ", ".join(refused[:SHOWN]) + more


def _refused(outbox: Outbox, refused: list[str]) -> CatdogError:
    kept = "" if outbox.empty else f", kept in {outbox.folder} (delete that to do without)"
    return CatdogError(
        f"the run is not complete: the tracking server {store.shown_uri()} refuses "
        f"{_listed(refused)}{kept}. When it takes them, type: "
        f"{resuming(outbox.folder.parent)}"
    )


def _is_of_this_machine(error: BaseException) -> bool:
    """Whether it is about a file or the disk here, and not about the way to the server."""
    of_the_way = (requests.RequestException, ConnectionError, TimeoutError)
    return isinstance(error, OSError) and not isinstance(error, of_the_way)


def _not_here(folder: Path, error: BaseException) -> CatdogError:
    return CatdogError(
        f"registering failed on this machine: {error}. Once that is mended, type: "
        f"{resuming(folder)}"
    )


def _not_registered(folder: Path, error: Exception) -> CatdogError:
    model = folder / "model"
    kept = f" The model is kept in {model}." if model.is_dir() else ""
    return CatdogError(
        f"the tracking server {store.shown_uri()} refuses what registering takes "
        f"({first_line(error)}).{kept} Once that is mended, type: {resuming(folder)}"
    )


def _set_aside(begun: str | None, resumed: str) -> None:
    """End the run that `mlflow run` has begun, as another goes on in its place.

    It is shown below that one. It can't be deleted: `mlflow run` still tags it when all is done.
    """
    if begun is None or begun == resumed:
        return
    client = MlflowClient()
    client.set_tag(begun, "mlflow.parentRunId", resumed)
    client.set_tag(begun, "mlflow.runName", f"resumed {resumed}")
    client.set_terminated(begun)
