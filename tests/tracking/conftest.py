"""A tracking store that takes or refuses what a test says."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from catdog.tracking import spool
from catdog.tracking.spool import Write


class Way:
    """Stands before the real sending, and lets nothing pass that is `refused`."""

    def __init__(self) -> None:
        self.refused: Callable[[Write], bool] = lambda _: False
        self.tries, self.timeout = 0, None
        self._send = spool._send

    def __call__(self, run_id: str, write: Write) -> None:
        self.tries += 1
        self.timeout = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")
        if self.refused(write):
            raise ConnectionError("no way")
        self._send(run_id, write)


def everything(_: Write) -> bool:
    return True


def artifacts(write: Write) -> bool:
    return write.kind == "artifact"


@pytest.fixture
def way(monkeypatch) -> Way:
    way = Way()
    monkeypatch.setattr(spool, "_send", way)
    return way
