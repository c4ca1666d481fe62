"""A real `mlflow server` that is killed or refuses, while a run goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.metrics import score
from catdog.tracking import spool, store
from catdog.tracking.log import Run
from catdog.tracking.run import start_run
from catdog.training.loop import Epoch
from tests.mlflow_server import Proxy, Server, running


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(started, monkeypatch) -> Iterator[Server]:
    """A server that is up; it may be killed."""
    if started.process is None:
        started.start()
    for name in store.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(spool, "LAST_TRY", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # nobody waits for long
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
    mlflow.set_tracking_uri(None)
    yield started
    for name in store.LIMITS:
        os.environ.pop(name, None)


@pytest.fixture
def gateway(server, monkeypatch) -> Iterator[Proxy]:
    """What stands before the server, and lets everything pass until a test says otherwise."""
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    yield proxy
    proxy.close()


def _log_epochs(run: Run, *numbers: int) -> None:
    for number in numbers:
        labels, logits = np.array([0, 0, 1, 1]), np.array([-1.0, 2.0, 1.0, 1.0])
        scores = score(labels, logits)
        epoch = Epoch(number, scores, scores, 0.001, 2.0, 50.0, is_best=True)
        run.log_epoch(epoch, Figure(figsize=(1, 1)))


def _logged(server: Server, run: Run) -> tuple[str, list[int], int]:
    """Status, steps of a metric, and the number of pictures."""
    client = MlflowClient(server.uri)
    steps = [metric.step for metric in client.get_metric_history(run.id, "val_loss")]
    pictures = [file for file in client.list_artifacts(run.id, "images") if file.path.endswith("g")]
    return client.get_run(run.id).info.status, sorted(steps), len(pictures)


def test_a_server_that_restarts_in_mid_run_misses_nothing(
    said, server, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(spool, "LAST_TRY", 30.0)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with start_run("x", tmp_path) as run:
        _log_epochs(run, 1)
        server.kill()
        _log_epochs(run, *range(2, 12))
        server.start()
        _log_epochs(run, 12)
    assert [line for line in said if "Training goes on" in line]
    assert _logged(server, run) == ("FINISHED", list(range(1, 13)), 12)
    assert not (run.folder / "unsent").exists()
    assert failed == []  # of the thread that watches the machine
    assert "View run" not in capfd.readouterr().out  # MLflow's own lines; the summary has better


def test_what_a_server_missed_that_stayed_away_until_the_end_is_sent_on_resuming(server, tmp_path):
    with (
        pytest.raises(CatdogError, match=r"did not take .*resume="),
        start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        server.kill()
        _log_epochs(run, 2)
    server.start()
    with start_run("x", tmp_path, resume=run.id) as again:
        _log_epochs(again, 3)
    assert _logged(server, run) == ("FINISHED", [1, 2, 3], 3)


@pytest.mark.parametrize(
    ("refused", "complaint", "arrived"),
    [
        ({"PUT /api/2.0/mlflow-artifacts": 413}, "the first artifact images/.*413", [1, 2, 3]),
        ({"HTTP": 401}, "401", [1]),
    ],
    ids=["files that are too large", "an expired token"],
)
def test_what_is_refused_ends_no_training_and_is_sent_on_resuming(
    said, gateway, server, tmp_path, refused, complaint, arrived
):
    with (
        pytest.raises(CatdogError, match=rf"did not take .*{complaint}.*resume="),
        start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        gateway.refused = refused
        _log_epochs(run, 2, 3)
    assert sum("does not take" in line for line in said) == 1
    assert _logged(server, run)[1:] == (arrived, 1)
    gateway.refused = {}
    with start_run("x", tmp_path, resume=run.id) as again:
        _log_epochs(again, 4)
    assert _logged(server, run) == ("FINISHED", [1, 2, 3, 4], 4)
