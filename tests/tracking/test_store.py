from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.tracking import run as tracking
from catdog.tracking import store
from catdog.tracking.store import LIMITS
from tests.conftest import ROOT


@pytest.mark.parametrize("quoted", [False, True])  # as `mlflow run` hands it on
@pytest.mark.parametrize("name", ["project", "my größe place"])
def test_a_script_from_another_folder_finds_the_projects_store(tmp_path, monkeypatch, name, quoted):
    project = tmp_path / name
    project.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if quoted:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{quote(str(project / 'mlflow.db'))}")
    (project / "MLproject").touch()
    monkeypatch.setattr(store, "ROOT", project)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with tracking.start_run("x") as run:
        mlflow.log_text("here", "note.txt")
        artifacts = mlflow.get_run(run.id).info.artifact_uri
        assert quoted or unquote(artifacts).endswith(f"{unquote(name)}/mlruns/0/{run.id}/artifacts")
        assert store.ui_hint() == f"mlflow ui   (in {project})"
    assert (project / "mlflow.db").is_file()
    assert quoted or list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {name, "elsewhere"}


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


def test_reading_a_sqlite_store_does_not_hold_up_who_writes(tmp_path, tracking_store):
    store.connect()
    path = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        writer.execute("BEGIN EXCLUSIVE")
        store.connect()


@pytest.mark.usefixtures("tracking_store")
def test_a_store_that_may_only_be_read_is_read_and_takes_no_run(tmp_path, monkeypatch):
    with tracking.start_run("x") as run:
        pass
    before = sorted(tmp_path.iterdir())
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    store.connect()
    assert MlflowClient().get_run(run.id).info.run_name == "x"
    assert sorted(tmp_path.iterdir()) == before
    assert store.shown_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(CatdogError, match="may only be read"), tracking.start_run("y"):
        pass


@pytest.mark.parametrize("copied", [False, True])
def test_a_project_that_was_moved_has_its_files_and_a_copy_leaves_them(
    tmp_path, store_with_tables, monkeypatch, copied
):
    old, new = tmp_path / "o[l]d*", tmp_path / "n_e%w"
    old.mkdir()
    shutil.copy(store_with_tables, old / "mlflow.db")
    monkeypatch.chdir(old)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}/mlflow.db")
    with tracking.start_run("first") as run:
        mlflow.log_text("here", "note.txt")
    monkeypatch.chdir(tmp_path)
    (shutil.copytree if copied else shutil.move)(old, new)
    mlflow.set_tracking_uri(f"sqlite:///{new}/mlflow.db")
    store.connect()
    home = old if copied else new
    with tracking.start_run("second") as second:
        mlflow.log_text("here, too", "note.txt")
    for each in (run, second):
        place = Path(MlflowClient().get_run(each.id).info.artifact_uri)
        assert place.is_relative_to(home / "mlruns")
        assert (place / "note.txt").is_file()
    assert old.exists() == copied


def test_pages_of_the_ui_are_the_servers_without_a_login(monkeypatch):
    assert store.runs_page("0") in (ROOT / "Makefile").read_text()  # of the local store
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://ada:s3cret@host/x/")
    assert store.run_page("7", "ab") == "https://host/x/#/experiments/7/runs/ab"


@pytest.mark.parametrize("hint", [store.shown_uri, store.ui_hint])
def test_the_password_of_a_store_is_not_shown(monkeypatch, hint):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://ada:s3cret@host:5000/x")
    assert hint() == "http://ada:***@host:5000/x"
