from __future__ import annotations

import os
import signal
import subprocess
import sys

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog.tracking import run as tracking
from catdog.tracking import store
from tests.conftest import ROOT


def _only_run():
    client = MlflowClient()
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(ids)
    return run


def test_a_run_of_a_script_goes_to_the_experiment_catdog():
    with tracking.start_run("first"):
        pass
    run = _only_run()
    assert MlflowClient().get_experiment(run.info.experiment_id).name == "catdog"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")


def test_the_experiment_that_mlflow_run_uses_is_called_catdog(monkeypatch, tracking_store):
    mlflow.set_tracking_uri(tracking_store)
    begun = MlflowClient().create_run("0")  # as `mlflow run` does before it starts the script
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    with tracking.start_run("named") as run:
        assert run.id == begun.info.run_id
    assert MlflowClient().get_experiment("0").name == "catdog"


def test_a_default_experiment_with_other_peoples_runs_keeps_its_name(tracking_store):
    mlflow.set_tracking_uri(tracking_store)
    MlflowClient().create_run("0")
    MlflowClient().create_run("0")
    with tracking.start_run("ours") as run:
        assert MlflowClient().get_experiment("0").name == "Default"
        assert MlflowClient().get_experiment(run.experiment_id).name == "catdog"


def test_the_experiment_is_shown_as_one_of_training_and_keeps_what_people_set():
    with tracking.start_run("x") as run:
        pass
    client = MlflowClient()
    tags = client.get_experiment(run.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "val_log_loss"
    client.set_experiment_tag(run.experiment_id, "mlflow.note.content", "mine")
    with tracking.start_run("y"):
        pass
    assert client.get_experiment(run.experiment_id).tags["mlflow.note.content"] == "mine"


def test_the_experiment_can_be_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pets")
    with tracking.start_run("x") as run:
        assert MlflowClient().get_experiment(run.experiment_id).name == "pets"


def test_a_failed_run_ends_as_failed_and_an_interrupted_one_as_killed():
    with pytest.raises(ZeroDivisionError), tracking.start_run("x"):
        _ = 1 / 0
    assert _only_run().info.status == "FAILED"
    MlflowClient().delete_run(_only_run().info.run_id)
    with pytest.raises(KeyboardInterrupt), tracking.start_run("x"):
        raise KeyboardInterrupt
    assert _only_run().info.status == "KILLED"


def test_sigterm_ends_a_run_as_killed():
    code = (
        "from catdog.tracking import run; import time\n"
        "with run.start_run('x'):\n    print('started', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    assert _only_run().info.status == "KILLED"


def test_the_line_that_lets_a_run_go_on_names_what_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    command = "mlflow run . --env-manager=local"
    own = tmp_path / "data" / "runs"
    assert tracking.resume_command(own / "ab") == f"{command} -P resume=ab"
    assert tracking.resume_command(own / "ef", "sweep") == f"{command} -e sweep -P resume=ef"
    elsewhere = tmp_path / "my data" / "runs" / "gh"
    where = f"-P 'data_dir={tmp_path / 'my data'}' -P processes=2"
    line = tracking.resume_command(elsewhere, "train", processes=2)
    assert line == f"{command} -e train -P resume=gh {where}"
