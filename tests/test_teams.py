"""The scripts against a real `mlflow server` over HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT
from tests.mlflow_server import Server, postgres, running
from tests.test_project import _draw

pytestmark = pytest.mark.project

SMALL = ("--dataset=pets", "--backbone=test_resnet", "--weights=none", "--learning-rate=0.01")


@dataclass(frozen=True)
class Colleague:
    """Somebody with a folder of their own and the team's server."""

    home: Path
    server: Server

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        hidden = ("MLFLOW_", "PYTEST_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        extra = {
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": self.server.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",
        }
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments],
            cwd=self.home,
            env=kept | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, status: int = 0) -> tuple[str, str]:
        process = self.start(script, *arguments)
        out, err = process.communicate(timeout=400)
        assert process.returncode == status, out + err
        return out, err

    def runs(self) -> list[Run]:
        """All runs on the server, the newest first."""
        client = MlflowClient(self.server.uri)
        experiment = client.get_experiment_by_name("catdog")
        return client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp(request.param)
    store = postgres() if request.param == "postgresql" else contextlib.nullcontext()
    with store as uri, running(home, uri) as server:
        yield server


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> Colleague:
    """A colleague whose run is registered."""
    colleague = Colleague(tmp_path_factory.mktemp("trains"), server)
    _draw(colleague.home / "pets" / "train", 15)
    colleague.run("main", *SMALL, "--epochs=3")
    return colleague


def test_a_run_is_all_on_the_server(trained, monkeypatch):
    (run,) = trained.runs()
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    history = MlflowClient(trained.server.uri).get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert len(run.inputs.dataset_inputs) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.server.uri)
    page = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html")
    assert run.info.run_id in page
    assert list((trained.home / "data" / "runs").glob("*/*")) == []


def test_a_colleague_without_the_data_predicts_and_scores(trained, tmp_path):
    colleague = Colleague(tmp_path, trained.server)
    _draw(tmp_path / "photos", 2)
    photos = [str(tmp_path / "photos" / f"{name}.1.jpg") for name in ("cat", "dog")]
    given = ("--model-uri", "models:/catdog/Production")
    out, _ = colleague.run("predict", *given, "--format", "json", *photos)
    assert {row["label"] for row in json.loads(out)} <= {"cat", "dog", "neither"}
    labelled = trained.home / "data" / "pets" / "validation"
    out, _ = colleague.run("evaluate", *given, "--format", "json", "--data", str(labelled))
    assert 0 <= json.loads(out)["accuracy"] <= 1
    out, _ = colleague.run("predict", *given, "--explain", str(tmp_path / "heat"), photos[0])
    assert list((tmp_path / "heat").iterdir())


def test_two_colleagues_train_at_once(trained, tmp_path_factory):
    before = len(trained.runs())
    colleagues = []
    for seed in (1, 2):
        colleague = Colleague(tmp_path_factory.mktemp("beside"), trained.server)
        _draw(colleague.home / "pets" / "train", 15)
        colleagues.append(colleague.start("main", *SMALL, "--epochs=2", f"--seed={seed}"))
    for process in colleagues:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, out + err
    assert len(trained.runs()) == before + 2
    versions = MlflowClient(trained.server.uri).search_model_versions("name = 'catdog'")
    assert len({version.version for version in versions}) == len(versions) == before + 2


def test_training_outlives_the_server_and_its_model_is_on_disk_first(trained, tmp_path):
    colleague = Colleague(tmp_path, trained.server)
    _draw(tmp_path / "pets" / "train", 15)
    process = colleague.start("main", *SMALL, "--epochs=4", "--seed=3")
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("epoch   1"):
            trained.server.kill()
    try:
        process.communicate(timeout=400)
        assert process.returncode == 2, "".join(told)
    finally:
        trained.server.start()
    assert any(line.startswith("epoch   4") for line in told), "".join(told)
    assert not any("Traceback" in line for line in told), "".join(told)
    (folder,) = (tmp_path / "data" / "runs").iterdir()
    assert told[-1].startswith("error: the tracking server")
    command = f"mlflow run . --env-manager=local -P resume={folder.name}"
    assert told[-1].endswith(f"type: {command} -P data_dir={tmp_path / 'data'}\n")
    assert (folder / "model" / "model.json").is_file()
    assert (folder / "outbox" / "writes.jsonl").is_file()
