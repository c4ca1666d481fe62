"""Where runs are kept: the store that scripts, `mlflow run` and `mlflow ui` meet in.

It is opened here, and shown to people here: without passwords.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import HTTPError

import catdog
from catdog import CatdogError

logger = logging.getLogger(__name__)

LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""How long a request may take: MLflow's own limits add up to many minutes."""

ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
}
"""A closed connection is opened again; a server that is away costs little."""

PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""For a model, which a server with a slow store behind it is long in taking."""

SECRET = re.compile(r"pass(?!file)|pwd|secret|token", re.IGNORECASE)
"""In the query of a URL: a password; `passfile` names a file."""

CARRIED = (MlflowException, OSError, SQLAlchemyError, HTTPError)
"""What the errors of a store come from; those of requests are OSErrors."""

EXPERIMENT = "catdog"

ROOT = Path(catdog.__file__).resolve().parents[1]
"""The project's folder, where MLproject, mlflow.db and mlruns/ stand."""

READ_ONLY = re.compile(r"sqlite\+pysqlite:///file:(.*)\?.*")
"""The URI of a SQLite store that may only be read; without the driver's name MLflow makes a folder
of its path. Nobody writes beside it, else there would be a file of what was written last."""

PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "model_versions": "storage_location",
    "logged_models": "artifact_location",
}
"""In which columns MLflow keeps absolute paths of files, by table."""

EXPERIMENT_TAGS = {
    "mlflow.note.content": "Two kinds of pictures, told apart by a frozen backbone and a one-logit "
    "head; the tag `classes` says which. "
    "Sort by `val_log_loss`, which is of the kept epoch; pictures compare in the *Chart view*.",
    # Without it the UI opens with the tabs for prompts and traces.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "val_log_loss",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
}


def connect() -> None:
    """Use the store that `mlflow ui` shows when started in the project's folder.

    `MLFLOW_TRACKING_URI` names another. Scripts started from elsewhere, and `mlflow run`,
    meet in the same store.

    Raises:
        CatdogError: the store can't be opened.
    """
    # A run that ends says where it is shown, and better: MLflow's own lines lead elsewhere.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        home = ROOT if (ROOT / "MLproject").is_file() else Path.cwd()
        mlflow.set_tracking_uri(_sqlite_uri(home / "mlflow.db"))
        # The store takes its artifact folder, ./mlruns, from where it is first opened.
        with contextlib.chdir(home):
            _open_store()
    else:
        path = _sqlite_path(uri := mlflow.get_tracking_uri())
        if path and "%" in uri and "?" not in uri:  # `mlflow run` encodes a blank, of which
            mlflow.set_tracking_uri(_sqlite_uri(path))  # MLflow would make a folder's name
        _open_store()


def absolute_uri() -> str:
    """The store's URI as another process, in another folder, can use it."""
    uri = mlflow.get_tracking_uri()
    path = _sqlite_path(uri)
    return _sqlite_uri(path.resolve()) if path else uri


def shown_uri() -> str:
    """The store's URI as people may see it: without a password."""
    uri = mlflow.get_tracking_uri()
    if found := READ_ONLY.fullmatch(uri):
        return f"sqlite:///{unquote(found[1])}"
    return without_password(uri)


def ui_hint() -> str:
    """The command that shows the runs."""
    uri = shown_uri()
    if _sqlite_path(uri) in (ROOT / "mlflow.db", Path("mlflow.db")):
        return f"mlflow ui   (in {ROOT})"
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def runs_page(experiment_id: str) -> str:
    """Where the UI shows the table of an experiment's runs: it opens with another page."""
    return f"{_ui()}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def run_page(experiment_id: str, run_id: str) -> str:
    """Where the UI shows a run."""
    return f"{_ui()}/#/experiments/{experiment_id}/runs/{run_id}"


def _ui() -> str:
    """The UI's address: the server's without a login, else where `mlflow ui` is by itself."""
    uri = mlflow.get_tracking_uri()
    uri = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return re.sub(r"://[^/@]*@", "://", uri).rstrip("/")


def _open_store() -> None:
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        for name, value in LIMITS.items():
            os.environ.setdefault(name, value)
    path = _sqlite_path(uri)
    writable = path is not None and os.access(path.parent, os.W_OK)
    if path is not None and path.is_file() and not (writable and os.access(path, os.W_OK)):
        _only_read(path)
        return
    try:
        # Two processes that make the same SQLite store at once spoil it.
        with FileLock(f"{path}.lock") if writable else contextlib.nullcontext():
            if path is not None and writable:
                _tend(path.resolve())
            _name_default_experiment(MlflowClient())
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise CatdogError(
            f"the MLflow store {shown_uri()} can't be opened: {first_line(error)}. "
            "Check MLFLOW_TRACKING_URI, or that the folder can be written to."
        ) from error


@contextlib.contextmanager
def limits(values: dict[str, str], *, keep_set: bool = False) -> Iterator[None]:
    """Give MLflow's requests other limits for a while.

    Args:
        values: environment variables, which MLflow reads at each request.
        keep_set: whether what the user has set stays.
    """
    changed = {k: v for k, v in values.items() if not keep_set or os.environ.get(k) == LIMITS[k]}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


def first_line(error: BaseException) -> str:
    """What happened at the root, without the layers that carried it, a long URL or a password."""
    # MLflow raises some of its own without naming what they come from; what was being handled
    # when the server was asked is not among them.
    while isinstance(cause := error.__cause__ or error.__context__, CARRIED):
        error = cause
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return without_password(line.partition(" for url: ")[0])


def without_password(text: str) -> str:
    """A text as people may see it, whatever address of a server it quotes."""
    return re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)


def without_login(url: str) -> str:
    """A database's URL as people may see it: no password, and no query, which may hold one."""
    return without_password(url).partition("?")[0]


def check_without_password(parameter: str, url: str) -> None:
    """See that a parameter is the URL of a database and holds no password, as runs show it.

    Raises:
        CatdogError: it is none, or holds one.
    """
    shown = f"{parameter}={without_login(url)}"
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):  # whose text quotes it
        raise CatdogError(
            f"{shown} is no URL of a database, as sqlite:///sweeps.db or "
            "postgresql://USER@HOST/NAME."
        ) from None
    if parsed.password or SECRET.search(str(parsed.query)):
        raise CatdogError(
            f"{shown} holds a password, which MLflow shows with the run's parameters: leave it "
            "out, and let the database's client find it (PGPASSWORD or ~/.pgpass for PostgreSQL, "
            "read_default_file in the URL for MySQL)."
        )


def _sqlite_uri(path: Path) -> str:
    """The URI of a SQLite store, in which a `%` begins a code, and a `?` ends the path."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def _sqlite_path(uri: str) -> Path | None:
    scheme, _, rest = uri.partition(":///")
    path = unquote(rest.partition("?")[0])
    return Path(path) if scheme == "sqlite" and path not in ("", ":memory:") else None


def _only_read(path: Path) -> None:
    """Use a SQLite store that can't be written to, which takes no lock and no log beside it."""
    log = path.with_name(f"{path.name}-wal")
    unchanging = "" if log.exists() and log.stat().st_size else "&immutable=1"
    place = quote(str(path.resolve()))
    mlflow.set_tracking_uri(f"sqlite+pysqlite:///file:{place}?mode=ro&uri=true{unchanging}")


def _tend(path: Path) -> None:
    """Let readers of a SQLite store not hold up writers, and a moved project find its files."""
    with (
        contextlib.suppress(sqlite3.DatabaseError),  # a new store, or no store, as MLflow will say
        contextlib.closing(sqlite3.connect(path)) as database,
        database,
    ):
        database.execute("PRAGMA journal_mode=WAL")
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        (place,) = database.execute(query).fetchone() or ("",)
        old, new = place.removesuffix("0"), f"{path.parent}/mlruns/"
        if not old.endswith("/mlruns/") or Path(old).exists() or not Path(new).exists():
            return
        for table, column in PLACES.items():
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )
        logger.info(f"This project was moved: the files of its runs, once in {old}, are in {new}")


def _name_default_experiment(client: MlflowClient) -> None:
    """Call the store's default experiment `catdog` where it is ours.

    `mlflow run .` puts its runs into experiment 0 unless told otherwise, and a run can't be
    moved. Where other projects' runs live in it, it keeps its name.
    """
    names = {one.experiment_id: one.name for one in client.search_experiments()}
    if names.get("0") != Experiment.DEFAULT_EXPERIMENT_NAME:
        return
    if client.get_experiment_by_name(EXPERIMENT) is not None:
        return
    ours = os.environ.get("MLFLOW_RUN_ID")
    if all(run.info.run_id == ours for run in client.search_runs(["0"], max_results=2)):
        client.rename_experiment("0", EXPERIMENT)


def describe_experiment(experiment_id: str) -> None:
    """Tell the MLflow UI how to show our experiment; what somebody has set is kept."""
    client = MlflowClient()
    # How the UI looks is worth no failed run, and not everybody may change an experiment.
    with contextlib.suppress(MlflowException):
        experiment = client.get_experiment(experiment_id)
        missing = EXPERIMENT_TAGS.keys() - experiment.tags.keys()
        for key in missing if experiment.name == EXPERIMENT else ():
            client.set_experiment_tag(experiment_id, key, EXPERIMENT_TAGS[key])
