"""What can't be done without the server, and what is said where that is away or refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import requests
from mlflow.exceptions import MlflowException

from catdog import CatdogError
from catdog.tracking import store
from catdog.tracking.delivery import PATIENT, first_line, limits, unreachable
from catdog.tracking.notes import resuming
from catdog.tracking.outbox import Outbox

SHOWN = 3
"""Writes that people are told of, where many are not sent."""


@contextlib.contextmanager
def registering(outbox: Outbox) -> Iterator[None]:
    """For what can't be done without the server: all that is kept is sent first.

    Metrics or pictures that it refuses don't stand in the way of what is done here. What is
    refused here ends it.

    Raises:
        CatdogError: the server can't be reached, before or meanwhile, or refuses what is done
            here; says how to go on later.
    """
    send_kept(outbox)
    try:
        with limits(PATIENT, keep_set=True):
            yield
    except (MlflowException, CatdogError, OSError) as error:
        if _is_of_this_machine(error):
            raise _not_here(outbox.folder.parent, error) from error
        if unreachable(error):
            raise away(outbox) from error
        if isinstance(error, CatdogError):
            raise
        raise _not_registered(outbox.folder.parent, error) from error


def send_kept(outbox: Outbox) -> None:
    """Send what a run could not send; what is refused stays in its outbox.

    Raises:
        CatdogError: the server can't be reached, or the run is gone.
    """
    outbox.send_all()
    if outbox.waiting:
        raise away(outbox)


def away(outbox: Outbox) -> CatdogError:
    """What to say of a run when the server can't be reached."""
    folder, kept_back = outbox.folder.parent, outbox.refused()
    model = folder / "model"
    kept = f"the model in {model}, what was logged" if model.is_dir() else "what was logged"
    before = f" (it refused {_listed(kept_back)} before)" if kept_back else ""
    return CatdogError(
        f"the tracking server {store.shown_uri()} can't be reached{before}; kept for it: {kept} "
        f"in {outbox.folder}. When it is back, type: {resuming(folder)}"
    )


def refused(outbox: Outbox, writes: list[str]) -> CatdogError:
    """What to say of a run of which the server refuses some writes."""
    kept = "" if outbox.empty else f", kept in {outbox.folder} (delete that to do without)"
    return CatdogError(
        f"the run is not complete: the tracking server {store.shown_uri()} refuses "
        f"{_listed(writes)}{kept}. When it takes them, type: "
        f"{resuming(outbox.folder.parent)}"
    )


def _listed(writes: list[str]) -> str:
    more = f", and {len(writes) - SHOWN} more" if len(writes) > SHOWN else ""
    return ", ".join(writes[:SHOWN]) + more


def _is_of_this_machine(error: BaseException) -> bool:
    """Whether it is about a file or the disk here, and not about the way to the server."""
    of_the_way = (requests.RequestException, ConnectionError, TimeoutError)
    return isinstance(error, OSError) and not isinstance(error, of_the_way)


def _not_here(folder: Path, error: BaseException) -> CatdogError:
    return CatdogError(
        f"registering failed on this machine: {error}. Once that is mended, type: "
        f"{resuming(folder)}"
    )


def _not_registered(folder: Path, error: Exception) -> CatdogError:
    model = folder / "model"
    kept = f" The model is kept in {model}." if model.is_dir() else ""
    return CatdogError(
        f"the tracking server {store.shown_uri()} refuses what registering takes "
        f"({first_line(error)}).{kept} Once that is mended, type: {resuming(folder)}"
    )
