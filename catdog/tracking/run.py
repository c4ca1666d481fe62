"""The life of a run: it begins or goes on, and ends. What is logged meanwhile: `log.Run`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.tracking import spool, store
from catdog.tracking.log import Run
from catdog.tracking.spool import Spool
from catdog.tracking.store import QUICK, first_line, limits

RUNS, UNSENT, MODEL = "runs", "unsent", "model"
"""Folders: of all runs, in the data's; in a run's own, of what did not arrive, and of its model."""

STEPS_ASKED = ("features_computed", "val_loss")
"""Metrics that are not logged a second time when a run goes on."""

TOGETHER_S = 1.0
"""Signals within a second are one request: on Ctrl-C the terminal sends SIGINT to all of
`mlflow run`, which then sends SIGTERM to what it had started."""


@contextlib.contextmanager
def start_run(
    name: str,
    data_dir: Path = Path("data"),
    *,
    resume: str | None = None,
    entry_point: str = "main",
    processes: int = 1,
) -> Iterator[Run]:
    """The run that `mlflow run` has begun, else a new one in the experiment `catdog`.

    It ends as FINISHED, as FAILED after an exception, and as KILLED when interrupted. What the
    tracking server does not take meanwhile is kept below `data_dir`, in the run's folder.

    Args:
        name: of the run, as MLflow shows it.
        data_dir: holds the folders of runs.
        resume: the id of an earlier run, which goes on.
        entry_point: of MLproject; with `processes` it is what the command to go on says.
        processes: how many train together.

    Raises:
        CatdogError: the store can't be opened, it takes nothing at all, the experiment or the run
            was deleted, or something has not arrived at the end.
    """
    store.connect()
    if store.READ_ONLY.fullmatch(mlflow.get_tracking_uri()):
        raise CatdogError(
            f"the MLflow store {store.shown_uri()} may only be read: have it opened for writing, "
            "or name another with MLFLOW_TRACKING_URI."
        )
    with interrupts(), _begin(resume) as active:
        run_id = active.info.run_id
        folder = data_dir / RUNS / run_id
        unsent = Spool(run_id, folder / UNSENT)
        command = resume_command(folder, entry_point, processes)
        status = "FAILED"
        try:
            logged = _logged_before(unsent) if resume else {}
            run = Run(active.info, name, unsent, command, logged)
            if resume is None:
                _name(run, unsent)
            store.describe_experiment(run.experiment_id)
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            _end(unsent, status, command)


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM raise KeyboardInterrupt; what is on disk is whole."""
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


def resume_command(folder: Path, entry_point: str = "main", processes: int = 1) -> str:
    """The line that lets the run of a folder, `<data_dir>/runs/<run id>`, go on."""
    home = folder.resolve().parents[1]
    options = "" if entry_point == "main" else f" -e {entry_point}"
    where = "" if home == store.ROOT / "data" else f" -P {shlex.quote(f'data_dir={home}')}"
    several = f" -P processes={processes}" if processes > 1 else ""
    return f"mlflow run . --env-manager=local{options} -P resume={folder.name}{where}{several}"


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
            f"({first_line(error)}): try again when it answers."
        ) from error
    return run.info.status if run.info.lifecycle_stage == "active" else None


def _begin(resume: str | None) -> mlflow.ActiveRun:
    """The run in MLflow: `resume`, the one that `mlflow run` has begun, or a new one."""
    begun = os.environ.get("MLFLOW_RUN_ID") if resume is None else None
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or store.EXPERIMENT
    try:
        if resume is not None:
            _set_aside(os.environ.pop("MLFLOW_RUN_ID", None), resume)
        elif begun is None:
            mlflow.set_experiment(name)
        return mlflow.start_run(run_id=resume, log_system_metrics=True)
    except MlflowException as error:
        advice = "check MLFLOW_TRACKING_URI and what you may do there."
        if begun is not None:
            advice = "begin a new run with: unset MLFLOW_RUN_ID"
        elif "deleted experiment" in str(error) and (
            found := MlflowClient().get_experiment_by_name(name)
        ):
            restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            advice = f"bring it back with: {restore}"
        where = f"the MLflow store {store.shown_uri()}"
        raise CatdogError(f"{where} begins no run ({first_line(error)}): {advice}") from error


def _name(run: Run, unsent: Spool) -> None:
    """Name the run; where even that is not taken, raise: nothing is lost by that yet.

    Hours of training would be, for somebody who may read on that server and not write.
    """
    run.set_tags({"mlflow.runName": run.name})
    if unsent.kept():
        shutil.rmtree(unsent.folder)
        raise CatdogError(
            f"the tracking server {store.shown_uri()} takes nothing of run {run.id} "
            f"({unsent.reason}). Check MLFLOW_TRACKING_URI and what you may do there."
        )


def _logged_before(unsent: Spool) -> dict[str, set[int]]:
    """The steps that a run which goes on has logged; what was kept of it is sent first.

    Raises:
        CatdogError: the server can't be reached.
    """
    if not unsent.send(spool.LAST_TRY) and not unsent.server_answers():
        raise CatdogError(
            f"the tracking server {store.shown_uri()} can't be reached ({unsent.reason}): "
            "resume the run when it is back."
        )
    client = MlflowClient()
    if "resume_with" in client.get_run(unsent.run_id).data.tags:
        client.delete_tag(unsent.run_id, "resume_with")
    return {
        metric: {one.step for one in client.get_metric_history(unsent.run_id, metric)}
        for metric in STEPS_ASKED
    }


def _end(unsent: Spool, status: str, command: str) -> None:
    """End the active run; one of which something has not arrived stays unfinished.

    Raises:
        CatdogError: a run that has done its work is not whole on the server.
    """
    finished = status == "FINISHED"
    whole = unsent.send(spool.LAST_TRY if finished else 0)
    try:
        with contextlib.nullcontext() if whole else limits(QUICK):
            mlflow.end_run("FAILED" if finished and not whole else status)
    except MlflowException as error:
        whole, unsent.reason = False, first_line(error)
    if not finished:
        return  # what ended the run matters more, and is told
    if not whole:
        kept = unsent.kept()
        what = f"{len(kept)} writes, the first {kept[0]}" if kept else "the end of the run"
        raise CatdogError(
            f"the run is not complete: the tracking server {store.shown_uri()} did not take "
            f"{what} ({unsent.reason}). What is kept is in {unsent.folder} (delete that to do "
            f"without). When it does, type: {command}"
        )
    # The registry has it.
    shutil.rmtree(unsent.folder.parent / MODEL, ignore_errors=True)


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
