"""The storyboard: prepared pictures → trained → registered → told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from mlflow.entities.model_registry import ModelVersion

from catdog import tracking
from catdog.config import TrainConfig
from catdog.parity import FreshProcess
from catdog.prepare import Prepared
from catdog.release import register, save
from catdog.telling import report_findings, tell
from catdog.trained import train

Say = Callable[[str], None]


def train_and_register(config: TrainConfig, prepared: Prepared, say: Say) -> ModelVersion:
    """Train on prepared pictures within the active MLflow run, and register the best model.

    Raises:
        CatdogError: a parameter does not fit, the data has gone, or the registry refuses.
    """
    with contextlib.closing(FreshProcess(tracking.store_uri())) as fresh:
        trained = train(config, prepared, say, meanwhile=fresh.start)
        model = tracking.model_folder()
        save(config, prepared, trained, model)  # before a server that may be away is asked
        with tracking.registering():
            released = register(config, prepared, trained, model, fresh, say)
    findings = report_findings(config, prepared, trained, released, say)
    tell(released, trained, findings, say)
    return released.version


def run_name(config: TrainConfig, dataset: str) -> str:
    """A name for the run that can be told from its neighbours in the MLflow UI."""
    return f"{dataset}-lr{config.learning_rate:g}-seed{config.seed}-{config.backbone}"
