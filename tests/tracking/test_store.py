from __future__ import annotations

import os

import mlflow
import pytest

from catdog import CatdogError
from catdog.tracking import run as tracking
from catdog.tracking import store
from catdog.tracking.store import LIMITS
from tests.conftest import ROOT


def test_a_script_from_another_folder_finds_the_projects_store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").touch()
    monkeypatch.setattr(store, "ROOT", project)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with tracking.start_run("x") as run:
        mlflow.log_text("here", "note.txt")
        artifacts = mlflow.get_run(run.id).info.artifact_uri
        assert artifacts.startswith(str(project / "mlruns"))
    assert (project / "mlflow.db").is_file()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////proc/no/mlflow.db", r"sqlite:////proc/no/mlflow\.db"),
        ("http://ada:s3cret@127.0.0.1:9", r"http://ada:\*\*\*@127\.0\.0\.1:9"),
    ],
)
def test_a_store_that_can_not_be_opened_is_named_without_its_password(monkeypatch, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in LIMITS:
        monkeypatch.setenv(name, "0")  # a user may set other limits
    with pytest.raises(CatdogError, match=f"the MLflow store {shown} can't be opened") as raised:
        store.connect()
    assert "s3cret" not in str(raised.value)
    assert {os.environ[name] for name in LIMITS} == {"0"}


def test_pages_of_the_ui_are_the_servers_without_a_login(monkeypatch):
    assert store.runs_page("0") in (ROOT / "Makefile").read_text()  # of the local store
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://ada:s3cret@host/x/")
    assert store.run_page("7", "ab") == "https://host/x/#/experiments/7/runs/ab"


@pytest.mark.parametrize("hint", [store.shown_uri, store.ui_hint])
def test_the_password_of_a_store_is_not_shown(monkeypatch, hint):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://ada:s3cret@host:5000/x")
    assert hint() == "http://ada:***@host:5000/x"
