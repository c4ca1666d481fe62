"""The tracking server"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from catdog.tracking.store import LIMITS
from tests.faults.conftest import TINY
from tests.mlflow_server import Proxy, has_postgres, postgres, running

pytestmark = pytest.mark.slow


def _versions() -> list[ModelVersion]:
    return MlflowClient().search_model_versions("name = 'catdog'")


@pytest.fixture
def gateway(tmp_path, monkeypatch) -> Iterator[Proxy]:
    """What stands before a tracking server, and refuses what a test says."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    store = postgres() if has_postgres() else contextlib.nullcontext()  # SQLite, then
    with store as uri, running(tmp_path / "server", uri) as server:
        proxy = Proxy(server.port)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        yield proxy
        proxy.close()


def test_a_model_that_a_server_refuses_is_not_lost_and_a_colleague_predicts_with_it(
    run, where, gateway, tmp_path, trains_quickly, draw_folder
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
    photos = draw_folder(tmp_path / "colleague", 2)
    asked = run("predict", photos, "--model_uri", "models:/catdog/Production")
    assert (asked.status, len(asked.out.splitlines())) == (0, 5)
