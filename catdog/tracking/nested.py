"""Nested runs: one for each trial of a study, below the run that trains with the best.

A run is made when its trial ends, whole and with the trial's own times. What can't be sent then,
or was sent to another store or in part, is made from the study at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from catdog.tracking.store import QUICK, limits

STUDY, TRIAL = "study", "trial"
"""Tags by which a trial's run is found."""

INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "git_commit")
AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""


@dataclass(frozen=True)
class Told:
    """What is logged of a trial.

    `epochs` are the metrics of each epoch, the first one's first; `metrics` are of the whole
    trial. Times are in milliseconds since 1970.
    """

    study: str
    number: int
    state: str
    began_ms: int
    ended_ms: int
    params: Mapping[str, object]
    epochs: Sequence[Mapping[str, float]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


def log(told: Told) -> bool:
    """Make a run of the trial below the active one; False when the server did not take it."""
    try:
        with limits(QUICK):
            _make(told)
    except MlflowException:
        return False  # `complete` makes up for it, or fails
    return True


def complete(study: str, trials: Collection[Told], *, failed: Collection[int]) -> None:
    """See that each trial of the study has one whole run, and that it is below the active one.

    Args:
        study: its name.
        trials: those that are finished.
        failed: numbers of those that were cut, which shall have no run.

    Raises:
        MlflowException: the server can't be reached, or refuses.
    """
    parent, client = _active().info, MlflowClient()
    known: dict[int, Run] = {}
    for run in _runs_of(study, parent.experiment_id, client):
        number = int(run.data.tags[TRIAL])
        twice = number in known or run.info.end_time is None
        if number in failed or (twice and any(told.number == number for told in trials)):
            client.delete_run(run.info.run_id)
        else:
            known[number] = run
    for told in trials:
        if told.number not in known:
            _make(told)
            continue
        run = known[told.number]
        if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent.run_id:
            client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent.run_id)


def _make(told: Told) -> None:
    client, parent = MlflowClient(), _active()
    tags = {key: value for key, value in parent.data.tags.items() if key in INHERITED} | {
        STUDY: told.study,
        TRIAL: str(told.number),
        MLFLOW_PARENT_RUN_ID: parent.info.run_id,
        MLFLOW_RUN_NAME: f"trial {told.number}",
    }
    run = client.create_run(parent.info.experiment_id, told.began_ms, tags)
    _fill(client, run.info.run_id, told)


def _active() -> Run:
    run = mlflow.active_run()
    assert run is not None, "trials are logged below a run"
    return run


def _runs_of(study: str, experiment_id: str, client: MlflowClient) -> list[Run]:
    asked = f"tags.{STUDY} = '{study}' and tags.{TRIAL} != ''"
    found: list[Run] = []
    page = client.search_runs([experiment_id], asked, max_results=1000)
    while page:
        found += page
        if not page.token:
            break
        page = client.search_runs([experiment_id], asked, max_results=1000, page_token=page.token)
    return found


def _fill(client: MlflowClient, run_id: str, told: Told) -> None:
    params = [Param(key, str(value)) for key, value in told.params.items()]
    client.log_batch(run_id, params=params, tags=[RunTag("trial_state", told.state)])
    metrics = _metrics(told)
    for start in range(0, len(metrics), AT_ONCE):
        client.log_batch(run_id, metrics[start : start + AT_ONCE])
    client.set_terminated(run_id, _status(told.state), told.ended_ms)


def _metrics(told: Told) -> list[Metric]:
    steps = [
        Metric(key, value, told.ended_ms, number)
        for number, epoch in enumerate(told.epochs, start=1)
        for key, value in epoch.items()
    ]
    return steps + [Metric(key, value, told.ended_ms, 0) for key, value in told.metrics.items()]


def _status(state: str) -> str:
    return "FINISHED" if state == "COMPLETE" else "KILLED"
