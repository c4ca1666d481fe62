"""The scripts against a real `mlflow server` over HTTP, on PostgreSQL where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog.config import PredictConfig
from scripts import predict
from tests.conftest import child_environment
from tests.mlflow_server import Server, has_postgres, postgres, running
from tests.project import Project, copied, draw, mlflow_run

pytestmark = [pytest.mark.project, pytest.mark.slow]

SMALL = {"dataset": "pets", "backbone": "test_resnet", "weights": "none", "learning_rate": "0.01"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """On SQLite where no PostgreSQL is installed; elsewhere the tests of outages have that one."""
    store = postgres() if has_postgres() else contextlib.nullcontext()
    with store as uri, running(tmp_path_factory.mktemp("server"), uri) as server:
        yield server


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> Project:
    """A project whose run, a real `mlflow run`, is registered on the server."""
    project = copied(tmp_path_factory.mktemp("trains"))
    draw(project.root / "pets" / "train", 15)
    small = [f"{name}={value}" for name, value in SMALL.items()]
    run = (*mlflow_run(*small, "epochs=3"), "--experiment-name=catdog")
    project.start(*run, MLFLOW_TRACKING_URI=server.uri)
    return project


@pytest.fixture
def client(trained, server, monkeypatch) -> MlflowClient:
    """Asks the server, which is this process's, too."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    mlflow.set_tracking_uri(None)
    return MlflowClient()


def _runs(client: MlflowClient) -> list[mlflow.entities.Run]:
    return client.search_runs([client.get_experiment_by_name("catdog").experiment_id])


def test_a_run_is_all_on_the_server(client, trained):
    (run,) = _runs(client)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert len(run.inputs.dataset_inputs) == 2
    assert run.info.run_id in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html")
    assert list((trained.root / "data" / "runs").glob("*/*")) == []


def test_a_colleague_without_the_data_predicts(client, tmp_path, capfd):
    photos = str(draw(tmp_path / "photos", 2))
    asked = PredictConfig(images=(photos,), model_uri="models:/catdog/Production", format="json")
    assert predict.main(asked) == 0
    answers = json.loads(capfd.readouterr().out)
    assert [row["label"] in ("cat", "dog", "neither") for row in answers] == [True] * 4


def _start_training(home: Path, server: Server, seed: int) -> subprocess.Popen:
    draw(home / "pets" / "train", 15)
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.main", *flags, "--epochs=2", f"--seed={seed}"],
        cwd=home,
        env=child_environment(MLFLOW_TRACKING_URI=server.uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_colleagues_train_at_once(client, server, tmp_path_factory):
    runs, versions = len(_runs(client)), len(client.search_model_versions("name = 'catdog'"))
    homes = {seed: tmp_path_factory.mktemp("beside") for seed in (1, 2)}
    both = [_start_training(home, server, seed) for seed, home in homes.items()]
    for process in both:
        out, _ = process.communicate(timeout=500)
        assert process.returncode == 0, out
    assert len(_runs(client)) == runs + 2
    numbers = [version.version for version in client.search_model_versions("name = 'catdog'")]
    assert len(set(numbers)) == len(numbers) == versions + 2
