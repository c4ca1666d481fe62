"""The scripts against a real `mlflow server` over HTTP, on PostgreSQL where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog import cli, config
from tests.conftest import ROOT
from tests.mlflow_server import Server, has_postgres, postgres, running
from tests.project import Project, copied, draw

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
    pairs = [word for name, value in SMALL.items() for word in ("-P", f"{name}={value}")]
    project.start(
        *("mlflow", "run", ".", "--env-manager=local", "--experiment-name=catdog"),
        *(*pairs, "-P", "epochs=3"),
        MLFLOW_TRACKING_URI=server.uri,
    )
    return project


@pytest.fixture
def client(trained, server, monkeypatch) -> MlflowClient:
    """Asks the server, which is this process's, too."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    mlflow.set_tracking_uri(None)
    return MlflowClient()


@pytest.fixture
def ask(client, capfd) -> Callable[..., str]:
    """A function that runs a script in this process, and returns what it answers."""

    def ask(name: str, *arguments: object) -> str:
        script = importlib.import_module(f"scripts.{name}")
        kind = getattr(config, f"{name.title()}Config")
        capfd.readouterr()
        status = cli.run(script.main, kind, [str(argument) for argument in arguments])
        shown = capfd.readouterr()
        assert status == 0, shown.err
        return shown.out

    return ask


@pytest.fixture
def challenger(client) -> Iterator[str]:
    """The number of another version, of the same files; the first one serves."""
    first = client.get_model_version("catdog", "1")
    tags = first.tags | {"validation_status": "approved"}
    logged = first.source.removeprefix("models:/")
    added = client.create_model_version(
        "catdog", first.source, first.run_id, tags=tags, model_id=logged
    )
    yield str(added.version)
    client.delete_model_version("catdog", str(added.version))


def _runs(client: MlflowClient) -> list[mlflow.entities.Run]:
    return client.search_runs([client.get_experiment_by_name("catdog").experiment_id])


def _serving(client: MlflowClient) -> str:
    (staged,) = client.get_latest_versions("catdog", ["Production"])
    for alias in ("champion", "production"):
        assert client.get_model_version_by_alias("catdog", alias).version == staged.version
    return str(staged.version)


def test_a_run_is_all_on_the_server(client, trained):
    (run,) = _runs(client)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert len(run.inputs.dataset_inputs) == 2
    assert run.info.run_id in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html")
    assert list((trained.root / "data" / "runs").glob("*/*")) == []


def test_a_version_is_promoted_and_rolled_back(client, challenger, ask):
    ask("promote", "--to", challenger, "--because", "agreed with Ada")
    assert _serving(client) == challenger
    assert str(client.get_model_version_by_alias("catdog", "previous").version) == "1"
    ask("promote", "--rollback", "--because", "it was a bad day")
    assert _serving(client) == "1"
    _, newest, *others = ask("promote", "--history").splitlines()
    assert newest.endswith("it was a bad day")
    assert len(others) == 2


def test_a_colleague_without_the_data_predicts_and_scores(trained, tmp_path, ask):
    draw(tmp_path / "photos", 2)
    given = ("--model-uri", "models:/catdog/Production", "--format", "json")
    answers = json.loads(ask("predict", *given, tmp_path / "photos"))
    assert len(answers) == 4
    assert {row["label"] for row in answers} <= {"cat", "dog", "neither"}
    labelled = trained.root / "data" / "pets" / "validation"
    assert 0 <= json.loads(ask("evaluate", *given, "--data", labelled))["accuracy"] <= 1


def _start_training(home: Path, server: Server, seed: int) -> subprocess.Popen:
    draw(home / "pets" / "train", 15)
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    hidden = ("MLFLOW_", "PYTEST_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    extra = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": server.uri}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.main", *flags, "--epochs=2", f"--seed={seed}"],
        cwd=home,
        env=kept | extra,
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
