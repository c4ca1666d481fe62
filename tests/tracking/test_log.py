from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from catdog import CLASSES
from catdog.data.dataset import PreparedDataset
from catdog.evaluation.metrics import score
from catdog.inference.prediction import Prediction
from catdog.reporting import plots
from catdog.tracking.run import start_run
from catdog.training.loop import Epoch, Fit
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("tracking_store")


def _epoch(number: int) -> Epoch:
    labels, logits = np.array([0, 0, 1, 1]), np.array([-1.0, 2.0, 1.0, 1.0])
    scores = score(labels, logits)
    return Epoch(number, scores, scores, 0.001, 2.0, 50.0, is_best=True)


def test_parameters_that_mlflow_run_has_logged_do_not_collide(monkeypatch, tracking_store):
    mlflow.set_tracking_uri(tracking_store)
    begun = MlflowClient().create_run("0")
    MlflowClient().log_param(begun.info.run_id, "learning_rate", "1e-3")
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    with start_run("x") as run:
        run.log_params({"learning_rate": 0.001, "epochs": 3, "seed": 0})
    run = MlflowClient().get_run(begun.info.run_id)
    assert run.data.params == {"learning_rate": "1e-3", "epochs": "3", "seed": "0"}
    config = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/config.json")
    assert config == {"learning_rate": 0.001, "epochs": 3, "seed": 0}


def test_an_epoch_is_logged_at_its_number_with_cells_and_picture():
    with start_run("x") as active:
        for number in (1, 2):
            epoch = _epoch(number)
            figure = plots.confusion_figure(epoch.val.confusion, "validation")
            active.log_epoch(epoch, figure)
    client = MlflowClient()
    for name, value in {
        "train_loss": _epoch(1).train.loss,
        "val_accuracy": 0.75,
        "learning_rate": 0.001,
        "epoch_seconds": 2.0,
        "images_per_second": 50.0,
        "epoch_true_negatives": 1,
        "epoch_false_positives": 1,
        "epoch_false_negatives": 0,
        "epoch_true_positives": 2,
    }.items():
        history = client.get_metric_history(active.id, name)
        assert [(metric.step, metric.value) for metric in history] == [(1, value), (2, value)], name
    pictures = client.list_artifacts(active.id, "images")
    assert sum("confusion_matrix" in picture.path for picture in pictures) >= 2


def test_the_kept_epoch_is_logged_under_names_of_its_own():
    with start_run("x") as run:
        epochs = (_epoch(1), _epoch(2), _epoch(3))
        run.log_fit(Fit(epochs, _epoch(2), stopped_early=True, trouble="It diverged."))
    data = MlflowClient().get_run(run.id).data
    assert data.metrics["best_epoch"] == 2
    assert data.metrics["stopped_epoch"] == 3
    assert data.metrics["best_val_accuracy"] == 0.75
    assert data.tags["early_stopped"] == "true"
    assert data.tags["stopped_because"] == "It diverged."


def _prepared(folder: Path, **fields: object) -> PreparedDataset:
    folder.mkdir()
    folder.joinpath("manifest.csv").write_text(
        "path,label,split,sha256,width,height,camera\n"
        "training/cat/1.jpg,cat,training,aa,4,3,01\n"
        "validation/dog/2.jpg,dog,validation,bb,4,3,\n"
    )
    return PreparedDataset(folder, "/x/pets.zip", "a" * 64, "b" * 64, {}, 0, **fields)


def test_the_data_sets_carry_our_digests(tmp_path):
    with start_run("x") as run:
        run.log_dataset(_prepared(tmp_path / "pets"))
    run = MlflowClient().get_run(run.id)
    logged = {
        item.tags[0].value: (item.dataset.name, item.dataset.digest)
        for item in run.inputs.dataset_inputs
    }
    assert logged == {
        "training": ("pets-training", "a" * 36),
        "validation": ("pets-validation", "b" * 36),
    }
    kinds = {"camera": "string", "height": "long"}.items()
    for item in run.inputs.dataset_inputs:
        columns = json.loads(item.dataset.schema)["mlflow_colspec"]
        assert kinds <= {column["name"]: column["type"] for column in columns}.items()
    assert run.data.tags["data"] == "photos"
    facts = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/data/dataset.json")
    assert (facts["origin"], facts["validation_digest"]) == ("/x/pets.zip", "b" * 64)


def test_device_versions_and_commit_are_tagged_and_all_else_is_in_a_file():
    with start_run("x") as run:
        run.log_environment("CPU (as asked)")
    ours = {
        k: v
        for k, v in MlflowClient().get_run(run.id).data.tags.items()
        if not k.startswith("mlflow.")
    }
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert ours["git_commit"] == (commit or "unknown")
    assert ours.keys() - {"git_commit", "git_dirty"} == {
        *("device", "python_version", "torch_version", "mlflow_version")
    }
    everything = mlflow.artifacts.load_dict(f"runs:/{run.id}/environment.json")
    assert everything["device"] == "CPU (as asked)"
    assert everything["versions"]["torch"] == ours["torch_version"]
    assert {"catdog", "timm", "numpy"} <= everything["versions"].keys()


def _shape(name: str) -> str:
    """An artifact's name without what differs from call to call."""
    return re.sub(r"timestamp\+\d+\+[0-9a-f-]{36}", "timestamp+TIME+UUID", name)


def _logged(run_id: str, folder: str) -> set[str]:
    return {_shape(file.path) for file in MlflowClient().list_artifacts(run_id, folder)}


def test_pictures_have_the_names_and_tags_that_mlflow_gives_them():
    figure = plots.confusion_figure(_epoch(1).val.confusion, "validation")
    with start_run("ours") as ours:
        ours.log_image(figure, "some key")
    mlflow.set_experiment("theirs")
    with mlflow.start_run() as theirs:
        mlflow.log_image(np.zeros((8, 8, 3), np.uint8), key="some key", step=0)
    assert _logged(ours.id, "images") == _logged(theirs.info.run_id, "images")
    ids = [ours.id, theirs.info.run_id]
    tags = [MlflowClient().get_run(run_id).data.tags for run_id in ids]
    assert tags[0]["mlflow.loggedImages"] == tags[1]["mlflow.loggedImages"]


def test_the_table_of_answers_is_what_mlflow_would_log():
    answers = [Prediction("cat", 0.9, 0.1, 0.5), Prediction("dog", 0.8, 0.8, float("nan"))]
    with start_run("ours") as ours:
        ours.log_predictions(
            ["a.jpg", "b.jpg"], np.array([0, 1]), np.array([-1, 1]), answers, CLASSES
        )
    name = "predictions/validation.json"
    table = mlflow.load_table(name, run_ids=[ours.id])
    mlflow.set_experiment("theirs")
    with mlflow.start_run() as theirs:
        mlflow.log_table(table, name)
    ids = [ours.id, theirs.info.run_id]
    texts = [mlflow.artifacts.load_text(f"runs:/{run_id}/{name}") for run_id in ids]
    assert texts[0] == texts[1]
    tags = [MlflowClient().get_run(run_id).data.tags for run_id in ids]
    assert tags[0]["mlflow.loggedArtifacts"] == tags[1]["mlflow.loggedArtifacts"]


def test_a_resumed_run_has_no_number_and_no_picture_twice(tmp_path):
    figure = plots.confusion_figure(_epoch(1).val.confusion, "kept")
    with start_run("x", tmp_path) as run:
        run.log_metrics({"val_roc_auc": 0.9})
        run.log_image(figure, "reliability")
    before = _logged(run.id, "images")
    with start_run("x", tmp_path, resume=run.id) as again:
        again.log_metrics({"val_roc_auc": 0.9})
        again.log_image(figure, "reliability")
    client = MlflowClient()
    history = client.get_metric_history(run.id, "val_roc_auc")
    assert [one.value for one in history] == [0.9]
    assert len(client.list_artifacts(run.id, "images")) == len(before) == 2
