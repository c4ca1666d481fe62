"""Runs below the active one."""

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

from catdog.tracking import run
from catdog.tracking.delivery import PROBE, first_line, limits

logger = logging.getLogger(__name__)

AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""


def log_child(
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, object],
    metrics: Sequence[Mapping[str, float]],
    *,
    began: datetime,
    status: str,
) -> None:
    """Make a run below the active one that is over, whole; where it can't be sent, say so.

    Args:
        name: of the run.
        tags: of the run, besides those that MLflow gives to each.
        params: of the run.
        metrics: of each step, from step 0 on.
        began: when it began; it ended just now.
        status: as MLflow calls it, FINISHED say.
    """
    client, parent, ended = MlflowClient(), run.active_run().info, time.time_ns() // 1_000_000
    about = {MLFLOW_PARENT_RUN_ID: parent.run_id, MLFLOW_RUN_NAME: name}
    measured = [
        Metric(key, value, ended, step)
        for step, values in enumerate(metrics)
        for key, value in values.items()
    ]
    try:
        with limits(PROBE):
            began_ms = round(began.timestamp() * 1000)
            child = client.create_run(
                parent.experiment_id, began_ms, resolve_tags({**tags, **about})
            ).info.run_id
            client.log_batch(child, params=[Param(key, str(params[key])) for key in params])
            for start in range(0, len(measured), AT_ONCE):
                client.log_batch(child, measured[start : start + AT_ONCE])
            client.set_terminated(child, status, ended)
    except MlflowException as error:
        logger.warning(f"{name} is missing in MLflow, which did not take it ({first_line(error)})")
