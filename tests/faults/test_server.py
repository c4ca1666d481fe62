"""The tracking server"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from catdog import pipeline
from catdog.registry.proof import FreshProcess
from catdog.tracking import log, store
from tests.faults.conftest import TINY
from tests.mlflow_server import Proxy, Server, running

pytestmark = pytest.mark.slow


def _versions() -> list[ModelVersion]:
    return MlflowClient().search_model_versions("name = 'catdog'")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """A tracking server, at which nobody waits for long."""
    monkeypatch.setattr(log, "PATIENT", store.QUICK)
    for name in store.LIMITS:
        monkeypatch.delenv(name, raising=False)
    with running(tmp_path / "server") as started:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
        yield started


def test_a_server_that_goes_during_the_proof_says_nothing_against_the_version(
    run, where, server, tmp_path, monkeypatch, trains_quickly
):
    quick: Callable[..., object] = pipeline.FreshProcess

    class Cut(FreshProcess):
        def ask(self, *given: object) -> None:
            server.kill()
            super().ask(*given)

    monkeypatch.setattr(pipeline, "FreshProcess", Cut)
    assert run("prepare", *where).status == 0
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert ended.sentence.startswith(f"the model could not be registered at {server.uri}")
    assert "REJECTED" not in ended.err
    server.start()
    (version,) = _versions()
    assert version.tags["validation_status"] == "pending"
    monkeypatch.setattr(pipeline, "FreshProcess", quick)
    again = run("train", *where, *TINY, "--resume", version.run_id)
    assert again.status == 0, again.err
    (version,) = _versions()
    assert version.tags["validation_status"] == "approved"
    assert version.current_stage == "Production"
    assert MlflowClient().get_run(version.run_id).info.status == "FINISHED"


@pytest.fixture
def gateway(server, monkeypatch) -> Iterator[Proxy]:
    """What stands before the server, and refuses what a test says."""
    proxy = Proxy(server.port)
    # A connection that the server has closed for want of use is opened again.
    monkeypatch.setattr(log, "PATIENT", store.PATIENT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    yield proxy
    proxy.close()


def test_a_model_that_is_refused_is_no_version_and_not_lost(
    run, where, gateway, tmp_path, trains_quickly
):
    assert run("prepare", *where).status == 0
    go_on: tuple[str, ...] = ()
    for refused, status in (("weights.safetensors", 413), ("/model-versions/create", 403)):
        gateway.refused = {refused: status}
        ended = run("train", *where, *TINY, *go_on)
        assert ended.status == 2
        assert str(status) in ended.sentence
        (folder,) = (tmp_path / "data" / "runs").iterdir()
        assert ended.err.count(f"-e train -P resume={folder.name}") == 1
        assert json.loads((folder / "model" / "model.json").read_text())["best_epoch"]
        gateway.refused = {}
        assert _versions() == []
        go_on = ("--resume", folder.name)
    again = run("train", *where, *TINY, *go_on)
    assert again.status == 0, again.err
    (version,) = _versions()
    assert (version.run_id, version.current_stage) == (folder.name, "Production")
