"""The life of a run: it starts or goes on, is written to, registers a model, and ends.

What is written to it meanwhile, `catdog.tracking.log.Run` knows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError, interrupts
from catdog.tracking import store
from catdog.tracking.delivery import PROBE, first_line, limits, unreachable
from catdog.tracking.log import Before, Run
from catdog.tracking.outbox import LAST_TRY, Outbox
from catdog.tracking.registering import away, refused, send_kept

ASKED_FOR = ("features_computed", "val_loss")
"""Metrics that are not logged a second time when a run goes on."""


@contextlib.contextmanager
def start_run(
    name: str, data_dir: Path = Path("data"), *, resume: str | None = None
) -> Iterator[Run]:
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
    with interrupts.at_once(), mlflow.start_run(run_id=resume, log_system_metrics=True) as active:
        folder = data_dir / "runs" / active.info.run_id
        outbox = Outbox(folder / "outbox")
        try:
            before = _asked_before(resume, outbox) if resume else None
            run = Run(active.info, folder, outbox, before)
            if resume is None:
                _name(run, outbox, name)
            store.describe_experiment(run.experiment_id)
            yield run
        except KeyboardInterrupt:
            _end(outbox, "KILLED")
            raise
        except BaseException:
            _end(outbox, "FAILED")
            raise
        _end(outbox, "FINISHED")


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


def _name(run: Run, outbox: Outbox, name: str) -> None:
    """Name the run; where even that is refused, raise: nothing is lost by that yet.

    Hours of training would be, for somebody who may read on that server and not write.
    """
    run.set_tags({"mlflow.runName": name})
    if refused := outbox.refused():
        shutil.rmtree(outbox.folder)
        raise CatdogError(
            f"MLflow refuses {refused[0]} of run {run.id}. "
            "Check MLFLOW_TRACKING_URI and what you may do there."
        )


def _asked_before(resumed: str, outbox: Outbox) -> Before:
    """What a run that goes on has logged, once all that was kept of it is sent."""
    send_kept(outbox)
    outbox.forget_tag(resumed, "resume_with")
    data, kept = MlflowClient().get_run(resumed).data, outbox.metrics()
    steps = {metric: _steps_of(resumed, metric) for metric in ASKED_FOR}
    for name, _, _, step in kept:
        steps.get(name, set()).add(step)
    if "resume_with" in data.tags:
        mlflow.delete_tag("resume_with")
    return Before(steps, data.metrics | {name: value for name, value, _, _ in kept})


def _steps_of(run: str, metric: str) -> set[int]:
    return {measured.step for measured in MlflowClient().get_metric_history(run, metric)}


def _end(outbox: Outbox, status: str) -> None:
    """End the active run; one of which something is not sent stays unfinished."""
    finished = status == "FINISHED"
    try:
        sent = outbox.send_all(LAST_TRY if finished else 0)
    except CatdogError:
        if finished:
            raise
        sent = False  # what ends the run matters more, and is told
    gone, why = outbox.waiting, []
    try:
        with contextlib.nullcontext() if sent else limits(PROBE):
            mlflow.end_run("FAILED" if finished and not sent else status)
    except MlflowException as error:
        sent = False
        gone = gone or unreachable(error)
        why = [f"the end of the run ({first_line(error)})"]
    if finished and not sent:
        raise away(outbox) if gone else refused(outbox, [*outbox.refused(), *why])
    if finished:
        # which the registry has
        shutil.rmtree(outbox.folder.parent / "model", ignore_errors=True)


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
