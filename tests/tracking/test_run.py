"""How a run begins and ends, with a store that answers and with one that refuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.tracking import run as tracking
from catdog.tracking import store
from tests.tracking.conftest import everything

pytestmark = pytest.mark.usefixtures("tracking_store")


def _fail() -> None:
    raise ZeroDivisionError


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def test_a_default_experiment_with_other_peoples_runs_keeps_its_name(tracking_store):
    mlflow.set_tracking_uri(tracking_store)
    MlflowClient().create_run("0")
    MlflowClient().create_run("0")
    with tracking.start_run("ours") as run:
        assert MlflowClient().get_experiment("0").name == "Default"
        assert MlflowClient().get_experiment(run.experiment_id).name == "catdog"


def test_a_scripts_experiment_is_shown_as_one_of_training_and_keeps_what_people_set():
    with tracking.start_run("first") as run:
        pass
    client = MlflowClient()
    info = client.get_run(run.id).info
    assert (info.status, info.run_name) == ("FINISHED", "first")
    assert client.get_experiment(run.experiment_id).name == "catdog"
    tags = client.get_experiment(run.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "val_log_loss"
    client.set_experiment_tag(run.experiment_id, "mlflow.note.content", "mine")
    with tracking.start_run("y"):
        pass
    assert client.get_experiment(run.experiment_id).tags["mlflow.note.content"] == "mine"


@pytest.mark.parametrize(("end", "status"), [(_fail, "FAILED"), (_terminate, "KILLED")])
def test_a_run_that_fails_or_is_ended_by_a_signal_says_so(end, status):
    with pytest.raises((ZeroDivisionError, KeyboardInterrupt)), tracking.start_run("x") as run:
        end()
    assert tracking.status_of(run.id) == status


def _delete_the_experiment(_patch: pytest.MonkeyPatch) -> None:
    with tracking.start_run("before") as run:
        pass
    MlflowClient().delete_experiment(run.experiment_id)


def _name_a_run_that_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("spoil", [_delete_the_experiment, _name_a_run_that_is_gone])
def test_what_hinders_a_run_is_told_and_the_command_that_is_told_helps(monkeypatch, spoil):
    spoil(monkeypatch)
    with pytest.raises(CatdogError, match="begins no run") as raised, tracking.start_run("x"):
        pass
    verb, *words = shlex.split(re.search(r"with: (.*)$", str(raised.value))[1])
    if verb == "unset":
        monkeypatch.delenv(*words, raising=False)  # MLflow takes it itself
    else:
        subprocess.run([sys.executable, "-m", verb, *words], check=True, capture_output=True)
    with tracking.start_run("x") as run:
        pass
    assert tracking.status_of(run.id) == "FINISHED"


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


def test_who_may_not_write_learns_it_before_any_training(way, tmp_path):
    way.refused = everything
    with (
        pytest.raises(CatdogError, match=r"takes nothing of run .*Check MLFLOW_TRACKING_URI"),
        tracking.start_run("x", tmp_path),
    ):
        pytest.fail("nothing may be written")
    assert list((tmp_path / "runs").glob("*/*")) == []
