"""A real `mlflow server` that is killed, slow, or gone until the end, while a run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.metrics import score
from catdog.reporting import figures
from catdog.tracking import delivery, outbox, registering, store
from catdog.tracking import run as tracking
from catdog.tracking.log import Run
from catdog.training.loop import Epoch
from tests.conftest import ROOT
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
    for name in delivery.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
    mlflow.set_tracking_uri(None)
    yield started
    for name in delivery.LIMITS:
        os.environ.pop(name, None)


def _log_epochs(run: Run, *numbers: int) -> None:
    for number in numbers:
        labels, logits = np.array([0, 0, 1, 1]), np.array([-1.0, 2.0, 1.0, 1.0])
        scores = score(labels, logits)
        epoch = Epoch(number, scores, scores, 0.001, 2.0, 50.0, is_best=True)
        run.log_epoch(epoch, figures.confusion_figure(epoch.val.confusion, "validation"))


def _try_again_at_once(run: Run) -> None:
    run._outbox._next_try = 0.0


def _logged(uri: str, run_id: str) -> tuple[str, list[int], int]:
    """Status, steps of a metric, and the number of pictures."""
    client = MlflowClient(uri)
    steps = [metric.step for metric in client.get_metric_history(run_id, "val_loss")]
    pictures = [file for file in client.list_artifacts(run_id, "images") if file.path.endswith("g")]
    return client.get_run(run_id).info.status, steps, len(pictures)


def test_a_server_that_restarts_in_mid_run_misses_nothing(said, server, tmp_path):
    with tracking.start_run("x", tmp_path) as run:
        _log_epochs(run, 1)
        server.kill()
        began = time.monotonic()
        _log_epochs(run, *range(2, 12))
        assert time.monotonic() - began < 15
        server.start()
        _try_again_at_once(run)
        _log_epochs(run, 12)
    told = "\n".join(said)
    assert told.count("Training goes on") == 1
    assert told.count("The tracking server is back") == 1
    assert _logged(server.uri, run.id) == ("FINISHED", list(range(1, 13)), 12)
    assert not (tmp_path / "runs" / run.id / "outbox").exists()


def test_what_a_server_missed_until_the_end_can_be_sent_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "LAST_TRY", 1.0)
    with (
        pytest.raises(
            CatdogError, match=r"type: mlflow run \. --env-manager=local -P resume="
        ) as raised,
        tracking.start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        server.kill()
        _log_epochs(run, 2, 3)
    folder = run.folder
    assert str(folder / "outbox") in str(raised.value)
    assert mlflow.active_run() is None
    server.start()
    registering.send_kept(outbox.Outbox(folder / "outbox"))
    assert _logged(server.uri, run.id) == ("RUNNING", [1, 2, 3], 3)


def test_nothing_is_registered_while_the_server_is_away(server, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox.Outbox.send_all, "__defaults__", (0.0,))
    with (
        pytest.raises(CatdogError, match=r"kept for it: the model in .*model, what was logged"),
        tracking.start_run("x", tmp_path) as run,
    ):
        server.kill()
        _log_epochs(run, 1)
        (run.folder / "model").mkdir()
        with run.registering():
            pytest.fail("the server is away")


def test_a_server_that_goes_while_registering_is_one_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setattr(registering, "PATIENT", delivery.PROBE)
    with (
        pytest.raises(CatdogError, match="can't be reached"),
        tracking.start_run("x", tmp_path) as run,
        run.registering(),
    ):
        server.kill()
        MlflowClient().search_registered_models()


def test_a_slow_server_gets_everything(server, tmp_path, monkeypatch):
    proxy = Proxy(server.port)
    proxy.delay = 0.3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.port}")
    with tracking.start_run("x", tmp_path) as run:
        _log_epochs(run, 1, 2)
        assert run._outbox.empty
    proxy.close()
    assert _logged(server.uri, run.id) == ("FINISHED", [1, 2], 2)


def test_a_server_that_swallows_every_question_holds_nothing_up(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.port}")
    with tracking.start_run("x", tmp_path) as run:
        proxy.swallow = True
        began = time.monotonic()
        _log_epochs(run, *range(1, 6))
        assert time.monotonic() - began < 15
        assert not run._outbox.empty
        proxy.swallow = False
    proxy.close()
    assert _logged(server.uri, run.id) == ("FINISHED", [1, 2, 3, 4, 5], 5)


def test_watching_the_machine_neither_fails_nor_hangs_while_the_server_is_away(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with tracking.start_run("x", tmp_path) as run:
        time.sleep(1)
        server.kill()
        _log_epochs(run, 1)
        time.sleep(1)
        server.start()
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert failed == []
    assert _logged(server.uri, run.id)[0] == "FINISHED"
    metrics = MlflowClient().get_run(run.id).data.metrics
    assert any(name.startswith("system/") for name in metrics)


def test_a_server_that_is_away_at_the_start_is_told_at_once(server: Server, monkeypatch):
    server.kill()
    began = time.monotonic()
    with pytest.raises(CatdogError, match="can't be opened"), tracking.start_run("x"):
        pytest.fail("there is no run")
    assert time.monotonic() - began < 20


HAMMER = """
import sys, time
import mlflow
from catdog.tracking.run import start_run
while time.time() < float(sys.argv[1]):
    time.sleep(0.001)
with start_run("x") as run:
    mlflow.MlflowClient().create_registered_model(f"model-{sys.argv[2]}")
    for step in range(30):
        run.log_metrics({f"m{number}": float(step) for number in range(100)}, step=step)
        run.set_tags({"step": str(step)})
        mlflow.MlflowClient().set_registered_model_tag(f"model-{sys.argv[2]}", "step", str(step))
    assert run._outbox.empty
"""


def _together(tmp_path: Path, count: int) -> list[str]:
    """What processes say that open one store at the same time, each one's errors."""
    at = str(time.time() + 8)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, at, str(number)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        for number in range(count)
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [text for text, one in zip(said, processes, strict=True) if one.returncode]


def test_two_runs_that_begin_at_once_make_one_sqlite_store_and_both_write(tmp_path, store_uri):
    assert not (tmp_path / "mlflow.db").exists()
    assert _together(tmp_path, 2) == []
    client = MlflowClient(store_uri)
    (experiment,) = client.search_experiments()
    for run in client.search_runs([experiment.experiment_id]):
        assert len(client.get_metric_history(run.info.run_id, "m7")) == 30


def test_a_store_in_which_another_run_writes_for_long_can_be_opened(tmp_path, tracking_store):
    store.connect()
    code = (
        "import sqlite3, sys, time\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN EXCLUSIVE')\nprint('writing', flush=True)\ntime.sleep(60)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "mlflow.db")], stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout.readline() == b"writing\n"
        code = "from catdog.tracking import store; store.connect()"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=50
        )
    finally:
        writer.kill()
        writer.communicate()
