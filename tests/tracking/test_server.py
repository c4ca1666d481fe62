"""A real `mlflow server` that is killed, hangs or refuses, while a run goes on."""

from __future__ import annotations

import math
import os
import threading
import time
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

EVERYTHING = "HTTP"
PUT_FILES = "PUT /api/2.0/mlflow-artifacts"
LOG_BATCH = "/runs/log-batch"


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


def test_a_server_that_restarts_in_mid_run_misses_nothing(said, server, tmp_path, monkeypatch):
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
    metrics = MlflowClient().get_run(run.id).data.metrics
    assert any(name.startswith("system/") for name in metrics)


def test_what_a_server_missed_until_the_end_is_sent_on_resuming(server, tmp_path):
    with (
        pytest.raises(
            CatdogError, match=r"is not complete: .* did not take \d+ writes, .* -P resume="
        ) as raised,
        start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        server.kill()
        _log_epochs(run, 2, 3)
    assert str(run.folder / "unsent") in str(raised.value)
    assert mlflow.active_run() is None
    with pytest.raises(CatdogError, match="can't be opened"), start_run("x", resume=run.id):
        pytest.fail("the server is away")
    server.start()
    with start_run("x", tmp_path, resume=run.id) as again:
        assert again.logged_steps("val_loss") == {1, 2, 3}
        _log_epochs(again, 4)
    assert _logged(server, run) == ("FINISHED", [1, 2, 3, 4], 4)


@pytest.mark.parametrize("status", [413, 500, 0])
def test_files_that_are_refused_end_no_training_and_are_sent_on_resuming(
    said, gateway, server, tmp_path, status
):
    with (
        pytest.raises(CatdogError, match=r"did not take \d+ writes, the first artifact images/"),
        start_run("x", tmp_path) as run,
    ):
        gateway.refused = {PUT_FILES: status}
        _log_epochs(run, 1, 2)
    assert sum("does not take artifact images/" in line for line in said) == 1
    assert _logged(server, run) == ("FAILED", [1, 2], 0)
    gateway.refused = {}
    with start_run("x", tmp_path, resume=run.id) as again:
        _log_epochs(again, 3)
    assert _logged(server, run) == ("FINISHED", [1, 2, 3], 3)


@pytest.mark.parametrize("renewed", [True, False])
def test_a_token_that_expires_costs_nothing_once_it_is_renewed(gateway, server, tmp_path, renewed):
    def train() -> None:
        _log_epochs(run, 1)
        gateway.refused = {EVERYTHING: 401}
        _log_epochs(run, 2, 3)
        gateway.refused = {} if renewed else gateway.refused

    if renewed:
        with start_run("x", tmp_path) as run:
            train()
    else:
        with pytest.raises(CatdogError, match=r"401.*resume="), start_run("x", tmp_path) as run:
            train()
        gateway.refused = {}
        with start_run("x", tmp_path, resume=run.id):
            pass
    assert _logged(server, run) == ("FINISHED", [1, 2, 3], 3)


def test_a_server_that_swallows_every_question_holds_nothing_up(
    gateway, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(spool, "LAST_TRY", 30.0)
    with start_run("x", tmp_path) as run:
        gateway.swallow = True
        began = time.monotonic()
        _log_epochs(run, *range(1, 6))
        assert time.monotonic() - began < 30
        gateway.swallow = False
    assert _logged(server, run) == ("FINISHED", [1, 2, 3, 4, 5], 5)


def test_a_run_whose_end_alone_is_refused_is_told(gateway, tmp_path):
    with (
        pytest.raises(CatdogError, match=r"did not take the end of the run \(.*403.*resume="),
        start_run("x", tmp_path),
    ):
        gateway.refused = {"/runs/update": 403}


def test_what_ended_a_run_is_told_though_nothing_is_taken_by_then(gateway, tmp_path):
    with pytest.raises(ZeroDivisionError), start_run("x", tmp_path):
        gateway.refused = {EVERYTHING: 401}
        _ = 1 / 0
    assert mlflow.active_run() is None


def test_who_may_not_write_is_told_before_any_training(gateway, tmp_path):
    gateway.refused = {LOG_BATCH: 403}
    with (
        pytest.raises(CatdogError, match=r"takes nothing of run .*403.*Check MLFLOW_TRACKING_URI"),
        start_run("x", tmp_path),
    ):
        pytest.fail("nothing may be written")
    assert list((tmp_path / "runs").glob("*/*")) == []


def test_metrics_that_stay_refused_are_not_logged_twice_by_the_run_that_goes_on(
    gateway, server, tmp_path
):
    with pytest.raises(CatdogError, match="resume="), start_run("x", tmp_path) as run:
        gateway.refused = {LOG_BATCH: 413}
        _log_epochs(run, 1)
        run.log_metrics({"val_roc_auc": math.nan})
    with pytest.raises(CatdogError), start_run("x", tmp_path, resume=run.id) as again:
        assert again.logged_steps("val_loss") == {1}
        again.log_metrics({"val_roc_auc": math.nan})
    gateway.refused = {}
    with start_run("x", tmp_path, resume=run.id) as again:
        again.log_metrics({"val_roc_auc": math.nan})
    assert _logged(server, run)[:2] == ("FINISHED", [1])
    assert len(MlflowClient().get_metric_history(run.id, "val_roc_auc")) == 1


def test_nothing_is_registered_while_the_server_is_away(server, tmp_path):
    with (
        pytest.raises(CatdogError, match=r"could not be registered at .* is kept in .*resume="),
        start_run("x", tmp_path) as run,
    ):
        server.kill()
        with run.registering():
            pytest.fail("the server is away")
