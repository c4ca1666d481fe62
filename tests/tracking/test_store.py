from __future__ import annotations

import contextlib
import os
import sqlite3

import mlflow
import pytest

from catdog import CatdogError
from catdog.tracking import run as tracking
from catdog.tracking import store
from catdog.tracking.delivery import LIMITS


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


def test_a_store_that_can_not_be_opened_is_one_sentence(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/mlflow.db")
    with pytest.raises(CatdogError, match=r"the MLflow store sqlite:////proc/no/mlflow\.db can't"):
        store.connect()


def test_reading_a_sqlite_store_does_not_hold_up_who_writes(tmp_path):
    store.connect()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("hint", [store.shown_uri, store.ui_hint])
def test_the_password_of_a_store_is_not_shown(monkeypatch, hint):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://ada:s3cret@host:5000/x")
    assert hint() == "http://ada:***@host:5000/x"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://host:5000")
    assert hint() == "http://host:5000"


def test_the_password_of_a_store_that_can_not_be_opened_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(CatdogError, match="can't be opened") as told:
        store.connect()
    assert "s3cret" not in str(told.value)


def test_a_user_of_a_server_may_set_longer_limits(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in LIMITS:
        monkeypatch.setenv(name, "0")
    with pytest.raises(CatdogError, match="can't be opened"):
        store.connect()
    assert {os.environ[name] for name in LIMITS} == {"0"}
