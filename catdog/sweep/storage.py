"""Where studies are kept: a database, or a file that several machines see.

What fails there is told in one sentence, whatever Optuna makes of it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError

from catdog import CatdogError
from catdog.tracking.store import MlflowError

AUTO = "auto"
HEARTBEAT_S, DEAD_AFTER_S = 10, 60

SECRET_KEY = re.compile(r"pass(?!file)|pwd|secret|token", re.IGNORECASE)
"""A parameter in the query of a URL that holds a password; `passfile` names a file."""

SECRET_VALUE = re.compile(r"(password|passwd|pwd)\s*=", re.IGNORECASE)
"""A password within such a parameter, as `odbc_connect` or `dsn` may hold it."""


@dataclass(frozen=True)
class Storage:
    """A place of studies, and how people call it: `where` holds no password."""

    where: str
    optuna: BaseStorage

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """For what asks the storage, or writes to it.

        Raises:
            CatdogError: it does not answer, or it is damaged.
        """
        try:
            yield
        except CatdogError:
            raise
        except Exception as error:
            failed = _of_storage(error)
            if failed is None:
                raise
            raise CatdogError(
                f"storage={self.where} does not answer ({_reason(failed)}): see that it can be "
                "reached and is whole; the same command goes on with the trials that are there."
            ) from error


def open_storage(where: str, data_dir: Path) -> Storage:
    """The storage that the parameter `storage` means; a file of its own in `data_dir` for auto.

    Raises:
        CatdogError: it can't be opened, or its URL holds a password.
    """
    if where == AUTO:
        where = f"sqlite:///{(data_dir / 'sweeps.db').resolve()}"
    url = _parsed(where) if "://" in where else None
    try:
        return Storage(where, _file(Path(where)) if url is None else _database(url))
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError, RuntimeError) as error:
        raise _unopened(where, _reason(error)) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's lines for each trial, and its warnings that a part of it may change."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class _Database(RDBStorage):
    """One whose heartbeat leaves it to the trial to tell what is wrong with the storage."""

    def record_heartbeat(self, trial_id: int) -> None:
        # In a thread, whose error nobody could catch, and which would end its heartbeat.
        with contextlib.suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)


class _File(JournalFileBackend):
    """One whose errors are told from those of what a trial does with other files."""

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with _as_of_the_storage():
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with _as_of_the_storage():
            super().append_logs(logs)


@contextlib.contextmanager
def _as_of_the_storage() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise StorageInternalError(str(error)) from error


def _file(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_File(str(path)))


def _parsed(where: str) -> URL:
    """The URL, which holds no password.

    Of one that does, or that can't be read, only the beginning is shown.
    """
    shown = f"{where.partition('://')[0]}://…"
    try:
        url = make_url(where)
    except (SQLAlchemyError, ValueError):
        # Without what it comes from, which quotes what may be a password.
        raise _unopened(shown, "no URL of a database") from None
    if _holds_password(url):
        raise CatdogError(
            f"storage={shown} holds a password, which MLflow shows with the run's parameters: "
            "leave it out, and let the database's client find it (PGPASSWORD or ~/.pgpass for "
            "PostgreSQL, read_default_file in the URL for MySQL)."
        )
    return url


def _holds_password(url: URL) -> bool:
    return bool(url.password) or any(
        SECRET_KEY.search(key) or any(SECRET_VALUE.search(value) for value in values)
        for key, values in url.normalized_query.items()
    )


def _database(url: URL) -> RDBStorage:
    alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the tables at once get into each other's way.
        alone = FileLock(f"{url.database}.lock")
        options = {"connect_args": {"timeout": 60}}
    with alone, quietly():
        _check_not_of_mlflow(url)
        return _Database(
            url.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=DEAD_AFTER_S,
        )


def _check_not_of_mlflow(url: URL) -> None:
    """Refuse MLflow's own database: both count their tables' versions in a table of one name."""
    engine = create_engine(url)
    try:
        taken = inspect(engine).has_table("experiments")
    finally:
        engine.dispose()
    if taken:
        raise CatdogError(
            f"storage={url.render_as_string()} is a database of MLflow's: give the study one of "
            "its own."
        )


def _of_storage(error: BaseException) -> BaseException | None:
    """What of an error and its causes comes from the storage; None where nothing does.

    When a trial's storage fails, Optuna ends with an error of its own making, an
    UnboundLocalError, above the one that tells what happened.
    """
    one: BaseException | None = error
    # Behind MLflow's errors is another database.
    while one is not None and not isinstance(one, MlflowError):
        if isinstance(one, StorageInternalError | SQLAlchemyError):
            return one
        one = one.__cause__ or one.__context__
    return None


def _reason(error: BaseException) -> str:
    """What a database's driver, or the system, says; without the statement and its values."""
    if isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    told = str(getattr(error, "orig", None) or error).splitlines()
    return told[0] if told else "unknown"


def _unopened(where: str, reason: str) -> CatdogError:
    return CatdogError(
        f"storage={where} can't be opened ({reason}): give a file on a disk that all machines "
        "share, or a database's URL, as sqlite:///sweeps.db or postgresql://USER@HOST/NAME."
    )
