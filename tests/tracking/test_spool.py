"""What is kept of a run's writes, against a store that takes or refuses what a test says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog.tracking import spool
from catdog.tracking.spool import Spool, Write
from catdog.tracking.store import QUICK
from tests.tracking.conftest import artifacts, everything


@pytest.fixture
def unsent(tracking_store, tmp_path) -> Spool:
    mlflow.set_tracking_uri(tracking_store)
    return Spool(MlflowClient().create_run("0").info.run_id, tmp_path / "unsent")


def _metric(step: int) -> Write:
    return Write("metrics", [["loss", 0.5, 1_700_000_000_000 + step, step]])


def _steps(unsent: Spool) -> list[int]:
    return [one.step for one in MlflowClient().get_metric_history(unsent.run_id, "loss")]


def _text(unsent: Spool, name: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{unsent.run_id}/{name}")


def test_what_is_kept_arrives_in_order_with_its_own_steps_and_times(way, unsent):
    unsent.write(_metric(1))
    way.refused = everything
    unsent.write(_metric(2))
    unsent.write(Write("params", {"seed": "1"}))
    unsent.write(Write("tags", {"a": "first"}))
    unsent.write(Write("tags", {"a": "second"}))
    unsent.write(Write("artifact", "some/note.txt", b"kept"))
    assert not unsent.send(0)
    way.refused = lambda _: False
    again = Spool(unsent.run_id, unsent.folder)  # in another process, say
    assert again.send(0)
    history = MlflowClient().get_metric_history(unsent.run_id, "loss")
    assert [(one.step, one.timestamp) for one in history] == [
        (1, 1_700_000_000_001),
        (2, 1_700_000_000_002),
    ]
    data = MlflowClient().get_run(unsent.run_id).data
    assert (data.tags["a"], data.params) == ("second", {"seed": "1"})
    assert _text(unsent, "some/note.txt") == "kept"
    assert not unsent.folder.exists()


def test_a_file_that_is_refused_holds_up_nothing_else(way, unsent, monkeypatch):
    monkeypatch.setattr(spool, "PAUSE", 0)
    monkeypatch.setattr(spool, "SHARE", 1e9)
    way.refused = artifacts
    for step in (1, 2):
        unsent.write(Write("artifact", f"{step}.txt", b"x"))
        unsent.write(_metric(step))
    assert _steps(unsent) == [1, 2]
    assert [str(one) for one in unsent.kept()] == ["artifact 1.txt", "artifact 2.txt"]
    way.refused = lambda write: write.content == "1.txt"
    assert not unsent.send(spool.LAST_TRY)  # a server that answers is not waited for
    assert _text(unsent, "2.txt") == "x"


def test_tries_that_fail_cost_the_training_a_moment_only(way, unsent, monkeypatch):
    way.refused = everything
    for step in range(5):
        unsent.write(_metric(step))
    monkeypatch.setattr(spool, "PATIENCE", 0.0)
    monkeypatch.setattr(unsent, "_next_try", 0.0)
    way.tries = 0
    unsent.write(_metric(5))
    assert way.tries == 1
    assert way.timeout == QUICK["MLFLOW_HTTP_REQUEST_TIMEOUT"]


def test_a_full_disk_stops_nothing(way, unsent, said, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    way.refused = everything
    unsent.write(_metric(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        unsent.write(_metric(2))
    assert any("metrics loss can't be kept" in line for line in said)
    way.refused = lambda _: False
    assert unsent.send(0)
    assert _steps(unsent) == [1]
