"""A saved classifier → an MLflow model of the active run, which can be registered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import catdog
from catdog import CLASSES, Classes
from catdog.data.classes import probability_name
from catdog.tracking import provenance
from catdog.tracking.log import Run

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo


def log_model(
    folder: Path,
    example: bytes,
    run: Run,
    *,
    step: int,
    tags: Mapping[str, str],
    classes: Classes = CLASSES,
) -> ModelInfo:
    """Log a saved classifier as an MLflow model that takes picture bytes.

    One that the run had logged before, and was cut before it was registered, goes.

    Args:
        folder: what `Classifier.save` wrote.
        example: a JPEG, kept as the model's input example.
        run: the active one.
        step: the epoch that the weights are from.
        tags: of the logged model.
        classes: what it tells apart.
    """
    _forget_models(run)
    logged: ModelInfo = mlflow.pyfunc.log_model(
        name="model",
        loader_module="catdog.inference.classifier",
        data_path=str(folder),
        code_paths=[str(Path(catdog.__file__).parent)],
        signature=_signature(classes),
        input_example=pd.DataFrame({"image": [example]}),
        # 2.9.0+cu130 can't be installed from PyPI, 2.9.0 can.
        pip_requirements=[
            f"{name}=={version.split('+')[0]}" for name, version in provenance.installed().items()
        ],
        step=step,
        tags=dict(tags),
    )
    return logged


def _forget_models(run: Run) -> None:
    """Delete models that the run has logged, half or whole, and that are no version."""
    client, mine = MlflowClient(), f"source_run_id = '{run.id}'"
    for model in client.search_logged_models([run.experiment_id], filter_string=mine):
        if MLFLOW_MODEL_VERSIONS not in model.tags:
            client.delete_logged_model(model.model_id)


def _signature(classes: Classes) -> ModelSignature:
    """What goes into the served model, and what comes out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec("double", "confidence"),
                ColSpec("double", probability_name(classes)),
                ColSpec("double", "familiarity"),
                ColSpec("string", "error"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("reject", "boolean", True),
                ParamSpec("threshold", "double", 0.5),
                ParamSpec("tta", "boolean", False),
            ]
        ),
    )
