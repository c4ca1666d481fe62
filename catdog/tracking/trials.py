"""A trial of a sweep, as a run below that of the sweep."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils import chunk_list
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from catdog.tracking.log import Run
from catdog.tracking.store import QUICK, first_line, limits

if TYPE_CHECKING:
    from optuna import Trial

    from catdog.training.loop import Epoch

logger = logging.getLogger(__name__)

AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""


def log_trial(parent: Run, trial: Trial, epochs: Sequence[Epoch], state: str) -> None:
    """Make a run of a trial that is over; where MLflow does not take it, say so.

    Its metrics have the epoch as their step; those of its best epoch, at step 0, are `best_…`.

    Args:
        parent: the sweep's run, below which it is shown.
        trial: with its parameters.
        epochs: that it trained.
        state: COMPLETE or PRUNED.
    """
    client, ended = MlflowClient(), time.time_ns() // 1_000_000
    name = f"trial {trial.number}"
    tags = {
        MLFLOW_RUN_NAME: name,
        MLFLOW_PARENT_RUN_ID: parent.id,
        "trial": str(trial.number),
        "trial_state": state,
        "study": trial.study.study_name,
    }
    params = [Param(key, str(value)) for key, value in trial.params.items()]
    try:
        with limits(QUICK):
            began = round((trial.datetime_start or datetime.now()).timestamp() * 1000)
            made = client.create_run(parent.experiment_id, began, resolve_tags(tags))
            client.log_batch(made.info.run_id, params=params)
            for some in chunk_list(_metrics(epochs, ended), AT_ONCE):
                client.log_batch(made.info.run_id, some)
            status = "FINISHED" if state == "COMPLETE" else "KILLED"
            client.set_terminated(made.info.run_id, status, ended)
    except MlflowException as error:
        logger.warning(f"{name} is missing in MLflow ({first_line(error)})")


def _metrics(epochs: Sequence[Epoch], ended: int) -> list[Metric]:
    found: list[tuple[str, float, int]] = []
    for epoch in epochs:
        found += [
            ("search_loss", epoch.val.loss, epoch.number),
            ("search_accuracy", epoch.val.accuracy, epoch.number),
            ("train_loss", epoch.train.loss, epoch.number),
        ]
    best = next((epoch for epoch in reversed(epochs) if epoch.is_best), None)
    if best:
        found += [
            ("best_search_loss", best.val.loss, 0),
            ("best_search_accuracy", best.val.accuracy, 0),
            ("best_epoch", best.number, 0),
        ]
    return [Metric(key, value, ended, step) for key, value, step in found]
