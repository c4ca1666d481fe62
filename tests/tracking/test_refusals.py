"""A real `mlflow server` behind a gateway that refuses some requests, while a run goes on."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.evaluation.metrics import score
from catdog.registry import upload, versions
from catdog.registry.promotion import Candidate
from catdog.reporting import figures
from catdog.tracking import delivery
from catdog.tracking import run as tracking
from catdog.tracking.log import Run
from catdog.tracking.outbox import Outbox
from catdog.training.loop import Epoch
from tests.conftest import encoded, tiny_classifier, tiny_picture
from tests.mlflow_server import Proxy, Server, running

pytestmark = pytest.mark.slow

EVERYTHING = "HTTP"
PUT_FILES = "PUT /api/2.0/mlflow-artifacts"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def gateway(server, monkeypatch) -> Iterator[Proxy]:
    """What stands before the server, and lets everything pass until a test says otherwise."""
    for name in delivery.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    mlflow.set_tracking_uri(None)
    yield proxy
    proxy.close()
    for name in delivery.LIMITS:
        os.environ.pop(name, None)


def _log_epochs(run: Run, *numbers: int) -> None:
    for number in numbers:
        labels, logits = np.array([0, 0, 1, 1]), np.array([-1.0, 2.0, 1.0, 1.0])
        scores = score(labels, logits)
        epoch = Epoch(number, scores, scores, 0.001, 2.0, 50.0, is_best=True)
        run.log_epoch(epoch, figures.confusion_figure(epoch.val.confusion, "validation"))


def _logged(server: Server, run_id: str) -> tuple[str, list[int], int]:
    """Status, steps of a metric, and the number of pictures."""
    client = MlflowClient(server.uri)
    steps = [metric.step for metric in client.get_metric_history(run_id, "val_loss")]
    pictures = [file for file in client.list_artifacts(run_id, "images") if file.path.endswith("g")]
    return client.get_run(run_id).info.status, steps, len(pictures)


@pytest.mark.parametrize("status", [413, 400, 500, 0])
def test_files_that_are_refused_end_no_training_and_are_sent_on_resuming(
    said, gateway, server, tmp_path, status
):
    with (
        pytest.raises(
            CatdogError, match=r"the run is not complete: .* refuses artifact images/"
        ) as raised,
        tracking.start_run("x", tmp_path) as run,
    ):
        gateway.refused = {PUT_FILES: status}
        _log_epochs(run, 1, 2)
    folder = run.folder
    assert str(folder / "outbox") in str(raised.value)
    assert f"type: mlflow run . --env-manager=local -P resume={folder.name}" in str(raised.value)
    told = "\n".join(said)
    assert told.count("REFUSES") == 1
    assert "REFUSES artifact images/" in told
    assert (str(status) if status else "Connection") in told
    assert _logged(server, run.id) == ("FAILED", [1, 2], 0)
    gateway.refused = {}
    with tracking.start_run("x", tmp_path, resume=run.id) as run:
        _log_epochs(run, 3)
    assert _logged(server, run.id) == ("FINISHED", [1, 2, 3], 3)
    assert not (folder / "outbox").exists()


def test_a_token_that_is_renewed_before_the_end_costs_nothing(said, gateway, server, tmp_path):
    with tracking.start_run("x", tmp_path) as run:
        _log_epochs(run, 1)
        gateway.refused = {EVERYTHING: 401}
        _log_epochs(run, 2, 3)
        gateway.refused = {}
        _log_epochs(run, 4)
    told = "\n".join(said)
    assert "REFUSES metrics" in told
    assert told.count("REFUSES") == 3  # metrics, pictures, tags
    status, steps, pictures = _logged(server, run.id)
    assert (status, sorted(steps), pictures) == ("FINISHED", [1, 2, 3, 4], 4)


def test_a_token_that_stays_expired_ends_the_run_with_the_command_for_later(
    gateway, server, tmp_path
):
    with (
        pytest.raises(CatdogError, match=r"refuses artifact .*, and \d+ more, kept in .*resume="),
        tracking.start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        gateway.refused = {EVERYTHING: 401}
        _log_epochs(run, 2, 3)
    assert mlflow.active_run() is None
    gateway.refused = {}
    assert Outbox(run.folder / "outbox").send_all(0)
    assert _logged(server, run.id) == ("RUNNING", [1, 2, 3], 3)


def test_a_run_whose_end_alone_is_refused_is_told(gateway, tmp_path):
    with (
        pytest.raises(CatdogError, match=r"refuses the end of the run \(.*403.*resume="),
        tracking.start_run("x", tmp_path) as run,
    ):
        _log_epochs(run, 1)
        gateway.refused = {"/runs/update": 403}


def test_what_ended_a_run_is_told_though_all_is_refused_by_then(gateway, tmp_path):
    with pytest.raises(ZeroDivisionError), tracking.start_run("x", tmp_path):
        gateway.refused = {EVERYTHING: 401}
        _ = 1 / 0
    assert mlflow.active_run() is None


def test_who_may_not_write_is_told_before_any_training(gateway, tmp_path):
    gateway.refused = {"/runs/log-batch": 403}
    with (
        pytest.raises(CatdogError, match=r"MLflow refuses tags .*Check MLFLOW_TRACKING_URI"),
        tracking.start_run("x", tmp_path),
    ):
        pytest.fail("nothing may be written")
    assert list((tmp_path / "runs").glob("*/*")) == []


def test_metrics_that_stay_refused_are_not_logged_twice_by_the_run_that_goes_on(
    gateway, server, tmp_path
):
    with pytest.raises(CatdogError, match="resume="), tracking.start_run("x", tmp_path) as run:
        gateway.refused = {"/runs/log-batch": 413}
        _log_epochs(run, 1)
        run.log_metrics({"val_roc_auc": math.nan})
    with (
        pytest.raises(CatdogError, match="resume="),
        tracking.start_run("x", tmp_path, resume=run.id) as run,
    ):
        assert run.logged_steps("val_loss") == {1}
        run.log_metrics({"val_roc_auc": math.nan})
    assert _logged(server, run.id)[:2] == ("FAILED", [])
    gateway.refused = {}
    with tracking.start_run("x", tmp_path, resume=run.id) as run:
        run.log_metrics({"val_roc_auc": math.nan})
    assert _logged(server, run.id)[:2] == ("FINISHED", [1])
    history = MlflowClient(server.uri).get_metric_history(run.id, "val_roc_auc")
    assert [math.isnan(one.value) for one in history] == [True]


def test_the_command_to_go_on_is_gone_from_a_run_that_went_on(gateway, server, tmp_path):
    with pytest.raises(KeyboardInterrupt), tracking.start_run("x", tmp_path) as run:
        _log_epochs(run, 1)
        gateway.refused = {"/runs/log-batch": 413}
        run.set_tags({"resume_with": "a command"})
        raise KeyboardInterrupt
    assert _logged(server, run.id)[0] == "KILLED"  # though something is not sent
    gateway.refused = {}
    with tracking.start_run("x", tmp_path, resume=run.id) as run:
        pass
    data = MlflowClient(server.uri).get_run(run.id)
    assert (data.info.status, data.data.tags.get("resume_with")) == ("FINISHED", None)


def test_a_server_that_goes_after_it_refused_something_is_told_with_what_it_refused(
    gateway, tmp_path, monkeypatch
):
    monkeypatch.setattr(tracking, "LAST_TRY", 0.0)
    with (
        pytest.raises(
            CatdogError, match=r"can't be reached \(it refused artifact note\.txt .*413.*resume="
        ),
        tracking.start_run("x", tmp_path) as run,
    ):
        gateway.refused = {"note.txt": 413}
        run._write("artifact", "note.txt", b"large")
        gateway.refused = {EVERYTHING: 503}
        _log_epochs(run, 1)


def test_a_run_that_is_deleted_meanwhile_is_no_refusal_of_one_write(gateway, tmp_path):
    with (
        pytest.raises(CatdogError, match=r"MLflow refuses tags of run .* was deleted"),
        tracking.start_run("x", tmp_path) as run,
    ):
        MlflowClient().delete_run(run.id)
        _log_epochs(run, 1)


@pytest.fixture
def saved(tmp_path) -> Path:
    folder = tmp_path / "model"
    tiny_classifier().save(folder)
    return folder


@pytest.mark.parametrize(
    ("refused", "status"),
    [(PUT_FILES, 413), ("/model-versions/create", 403), (EVERYTHING, 401)],
)
def test_a_model_that_is_refused_is_no_version_and_becomes_one_on_resuming(
    gateway, server, tmp_path, saved, refused, status
):
    name = f"refused-{status}"
    candidate = Candidate(0.9, "abc", drawn=False)

    def register(run: Run) -> None:
        logged = upload.log_model(saved, encoded(tiny_picture("cat", 1)), run, step=1, tags={})
        versions.add(logged.model_uri, name, candidate, digest="", card="# A card")

    with (
        pytest.raises(CatdogError, match=r"refuse[sd] ") as raised,
        tracking.start_run("x", tmp_path) as run,
        run.registering(),
    ):
        gateway.refused = {refused: status}
        register(run)
    assert str(status) in str(raised.value)
    gateway.refused = {}
    assert versions.versions(name) == []
    with tracking.start_run("x", tmp_path, resume=run.id) as run, run.registering():
        register(run)
    (version,) = versions.versions(name)
    assert versions.fetch(f"models:/{name}/{version.version}").is_dir()
    assert MlflowClient(server.uri).get_run(run.id).info.status == "FINISHED"


def test_a_picture_that_is_refused_does_not_stand_in_the_way_of_registering(
    gateway, tmp_path, saved
):
    candidate = Candidate(0.9, "abc", drawn=False)
    with (
        pytest.raises(CatdogError, match=r"refuses artifact note\.txt .*413"),
        tracking.start_run("x", tmp_path) as run,
    ):
        gateway.refused = {"note.txt": 413}
        run._write("artifact", "note.txt", b"large")
        with run.registering():
            logged = upload.log_model(saved, encoded(tiny_picture("cat", 1)), run, step=1, tags={})
            versions.add(logged.model_uri, "beside", candidate, digest="", card="# A card")
    assert len(versions.versions("beside")) == 1


def test_a_disk_that_fills_while_registering_is_not_blamed_on_the_server(gateway, tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.onnx")
    with (
        pytest.raises(CatdogError, match=r"on this machine: .*No space.*model\.onnx.*resume="),
        tracking.start_run("x", tmp_path) as run,
        run.registering(),
    ):
        raise full


@pytest.mark.parametrize("status", [502, 504])
def test_a_version_whose_making_was_answered_too_late_is_made_once(
    gateway, tmp_path, saved, monkeypatch, status
):
    monkeypatch.setattr(versions, "PAUSES", (0.1, 0.2))
    name = f"late-{status}"
    with tracking.start_run("x", tmp_path) as run, run.registering():
        logged = upload.log_model(saved, encoded(tiny_picture("cat", 1)), run, step=1, tags={})
        gateway.late = {"/model-versions/create": status}
        candidate = Candidate(0.9, "abc", drawn=False)
        version = versions.add(logged.model_uri, name, candidate, digest="", card="# A card")
    (only,) = versions.versions(name)
    assert (only.version, only.description) == (version.version, "# A card")
