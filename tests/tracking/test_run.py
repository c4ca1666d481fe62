"""How a run begins and ends, with a store that answers and with one that refuses."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.tracking import run as tracking
from catdog.tracking import store
from tests.conftest import ROOT
from tests.tracking.conftest import everything

pytestmark = pytest.mark.usefixtures("tracking_store")


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


def _refuse(*_: object, **__: object) -> None:
    raise MlflowException("403 Forbidden")


def test_a_run_whose_end_alone_is_refused_says_so(monkeypatch):
    with (
        monkeypatch.context() as patch,
        pytest.raises(CatdogError, match=r"did not take the end of the run \(.*403.*resume="),
        tracking.start_run("x"),
    ):
        patch.setattr(mlflow, "end_run", _refuse)


def test_what_ended_a_run_is_raised_though_nothing_is_taken_by_then(monkeypatch, way):
    with (
        monkeypatch.context() as patch,
        pytest.raises(ZeroDivisionError),
        tracking.start_run("x") as run,
    ):
        way.refused = everything
        patch.setattr(mlflow, "end_run", _refuse)
        run.set_tags({"a": "b"})
        _ = 1 / 0


def test_who_may_not_write_learns_it_before_any_training(way, tmp_path):
    way.refused = everything
    with (
        pytest.raises(CatdogError, match=r"takes nothing of run .*Check MLFLOW_TRACKING_URI"),
        tracking.start_run("x", tmp_path),
    ):
        pytest.fail("nothing may be written")
    assert list((tmp_path / "runs").glob("*/*")) == []


def test_metrics_that_stay_refused_are_not_logged_twice_by_the_run_that_goes_on(way):
    with pytest.raises(CatdogError, match="resume="), tracking.start_run("x") as run:
        way.refused = everything
        run.log_metrics({"val_loss": 0.5}, step=1)
        run.log_metrics({"val_roc_auc": math.nan})
    with pytest.raises(CatdogError), tracking.start_run("x", resume=run.id) as again:
        assert again.logged_steps("val_loss") == {1}
        again.log_metrics({"val_roc_auc": math.nan})
    way.refused = lambda _: False
    with tracking.start_run("x", resume=run.id) as again:
        again.log_metrics({"val_roc_auc": math.nan})
    for metric in ("val_loss", "val_roc_auc"):
        assert len(MlflowClient().get_metric_history(run.id, metric)) == 1


def test_nothing_is_registered_while_the_server_is_away(monkeypatch):
    with (
        pytest.raises(CatdogError, match=r"could not be registered at .* is kept in "),
        tracking.start_run("x") as run,
    ):
        monkeypatch.setattr(MlflowClient, "get_run", _refuse)
        with run.registering():
            pytest.fail("the server is away")
