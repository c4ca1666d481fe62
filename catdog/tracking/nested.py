"""Runs below another one, of the trials of a sweep say."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from catdog.tracking.log import Run
from catdog.tracking.store import QUICK, first_line, limits

logger = logging.getLogger(__name__)

AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""


def log_nested(
    parent: Run,
    tags: Mapping[str, str],
    params: Mapping[str, object],
    metrics: Sequence[Mapping[str, float]],
    *,
    began: datetime,
    status: str,
) -> None:
    """Make a run below `parent` that is over, whole; where MLflow does not take it, say so.

    Args:
        parent: where it is shown.
        tags: of the run, its name among them, besides those that MLflow gives to each.
        params: of the run.
        metrics: of each step, from step 0 on.
        began: when it began; it ended just now.
        status: as MLflow calls it, FINISHED say.
    """
    client, ended = MlflowClient(), time.time_ns() // 1_000_000
    logged = [Param(name, str(value)) for name, value in params.items()]
    measured = [
        Metric(name, value, ended, step)
        for step, values in enumerate(metrics)
        for name, value in values.items()
    ]
    try:
        with limits(QUICK):
            run_id = client.create_run(
                parent.experiment_id,
                round(began.timestamp() * 1000),
                resolve_tags({**tags, MLFLOW_PARENT_RUN_ID: parent.id}),
            ).info.run_id
            client.log_batch(run_id, params=logged)
            for start in range(0, len(measured), AT_ONCE):
                client.log_batch(run_id, measured[start : start + AT_ONCE])
            client.set_terminated(run_id, status, ended)
    except MlflowException as error:
        logger.warning(f"{tags[MLFLOW_RUN_NAME]} is missing in MLflow ({first_line(error)})")
