"""What a storage is opened with, what is refused, and what is told of one that fails."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from catdog import CatdogError
from catdog.sweep.storage import open_storage
from catdog.tracking import store

KEYS = ["password", "passwd", "PassWord", "pwd", "sslpassword", "access_token", "secret"]
WHERE_PASSWORDS_STAND = [
    "postgresql://ada:{}@db/sweeps",
    "postgresql://:{}@db/sweeps",
    "postgresql://ada:{}@db@host/sweeps",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dada%3BPWD%3D{}",
    "postgresql:///?dsn=host%3Ddb%20password%20%3D%20{}",
    *(f"postgresql://ada@db/sweeps?{key}={{}}" for key in KEYS),
    "postgresql://ada@db/sweeps?sslmode=require&password={}&connect_timeout=3",
]


@given(url=st.sampled_from(WHERE_PASSWORDS_STAND), password=st.text(min_size=1).map("Zq7".__add__))
def test_a_password_is_refused_wherever_it_stands_and_is_not_shown(url, password):
    quoted = quote(password, safe="")
    with pytest.raises(CatdogError, match=r"^storage=[\w+]+://… holds a password") as caught:
        open_storage(url.format(quoted), Path())
    assert "Zq7" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["my-db://ada:secret@db/sweeps", "postgresql://ada:secret@db:x/s", "postgresql://db:secret"],
)
def test_an_address_that_can_not_be_read_is_not_shown_either(url):
    with pytest.raises(CatdogError, match="can't be opened") as caught:
        open_storage(url, Path())
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__  # which quotes it


@pytest.mark.parametrize(
    "query", ["passfile=/home/ada/.pgpass", "sslmode=prefer", "service=passwords"]
)
def test_a_file_of_passwords_may_be_named(query):
    with pytest.raises(CatdogError, match="can't be opened"):  # where nobody listens
        open_storage(f"postgresql://127.0.0.1:1/db?{query}", Path())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nosuch://host/db", "storage=nosuch://host/db can't be opened"),
        ("sqlite:////proc/no/sweeps.db", "can't be opened"),
        ("/proc/no/sweep.log", "can't be opened"),
        ("damaged.log", r"storage=damaged.log can't be opened \(Expecting value"),
        ("sqlite:///damaged.log", r"can't be opened \(file is not a database"),
        ("postgresql://127.0.0.1:1/db", "can't be opened"),
    ],
)
def test_a_storage_that_can_not_be_opened_is_one_sentence(where, said):
    Path("damaged.log").write_text("neither a log\nnor a database\n", encoding="utf-8")
    with pytest.raises(CatdogError, match=said) as caught:
        open_storage(where, Path())
    assert "\n" not in str(caught.value)


def test_the_database_of_mlflow_is_left_alone(tracking_store):
    store.connect()
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        tables = "SELECT name FROM sqlite_master ORDER BY name"
        before = database.execute(tables).fetchall()
        with pytest.raises(CatdogError, match="is a database of MLflow's: give the study one of"):
            open_storage(tracking_store, Path())
        assert database.execute(tables).fetchall() == before


def test_what_is_told_of_a_failure_holds_no_statement_and_no_values():
    storage = open_storage("auto", Path())
    with pytest.raises(CatdogError) as caught, storage.answering():
        raise OperationalError(
            "SELECT 1", {"name": "value"}, sqlite3.OperationalError("it is gone")
        )
    assert str(caught.value) == (
        f"storage=sqlite:///{Path('sweeps.db').resolve()} does not answer (it is gone): see that "
        "it can be reached and is whole; the same command goes on with the trials that are there."
    )


def test_errors_of_others_are_theirs():
    """Also where the database behind MLflow failed, which is another one."""
    storage = open_storage("auto", Path())
    with pytest.raises(KeyError), storage.answering():
        raise KeyError
    with pytest.raises(CatdogError, match=r"^pictures are gone$"), storage.answering():
        raise CatdogError("pictures are gone") from StorageInternalError()
    with pytest.raises(MlflowException), storage.answering():
        raise MlflowException("x") from OperationalError("", {}, sqlite3.OperationalError("locked"))
