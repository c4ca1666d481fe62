"""The scripts against a real `mlflow server` over HTTP, on PostgreSQL where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from catdog import cli, config
from tests.conftest import ROOT
from tests.mlflow_server import Server, has_postgres, postgres, running
from tests.project import copied, draw

pytestmark = [pytest.mark.project, pytest.mark.slow]

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


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """On SQLite where no PostgreSQL is installed; elsewhere the tests of outages have that one."""
    store = postgres() if has_postgres() else contextlib.nullcontext()
    with store as uri, running(tmp_path_factory.mktemp("server"), uri) as server:
        yield server


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> Colleague:
    """A colleague whose run, a real `mlflow run`, is registered; it serves many tests."""
    project = copied(tmp_path_factory.mktemp("trains"))
    draw(project.root / "pets" / "train", 15)
    pairs = [word for flag in (*SMALL, "--epochs=3") for word in ("-P", _as_parameter(flag))]
    project.start(
        *("mlflow", "run", ".", "--env-manager=local", "--experiment-name=catdog", *pairs),
        MLFLOW_TRACKING_URI=server.uri,
        MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="1",
    )
    return Colleague(project.root, server)


def _as_parameter(flag: str) -> str:
    name, _, value = flag.removeprefix("--").partition("=")
    return f"{name.replace('-', '_')}={value}"


@pytest.fixture
def ask(trained, monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """A function that runs a script in this process, for the colleague; its status and answer."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.server.uri)
    monkeypatch.chdir(trained.home)
    mlflow.set_tracking_uri(None)

    def ask(name: str, *arguments: str) -> tuple[int, str]:
        script = importlib.import_module(f"scripts.{name}")
        kind = getattr(config, f"{name.title()}Config")
        capfd.readouterr()
        status = cli.run(script.main, kind, list(arguments))
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err, shown.err
        return status, shown.out

    return ask


@pytest.fixture
def challenger(trained) -> Iterator[str]:
    """The number of another version, of the same files; the first one serves."""
    client = MlflowClient(trained.server.uri)
    first = client.get_model_version("catdog", "1")
    tags = first.tags | {"validation_status": "approved"}
    logged = first.source.removeprefix("models:/")
    added = client.create_model_version(
        "catdog", first.source, first.run_id, tags=tags, model_id=logged
    )
    yield str(added.version)
    client.delete_model_version("catdog", str(added.version))


def _serving(trained: Colleague) -> str:
    client = MlflowClient(trained.server.uri)
    (staged,) = client.get_latest_versions("catdog", ["Production"])
    for alias in ("champion", "production"):
        assert client.get_model_version_by_alias("catdog", alias).version == staged.version
    return str(staged.version)


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


def test_a_version_is_compared_promoted_and_rolled_back(trained, challenger, ask):
    compared = ("promote", "--version", challenger, "--dry-run")
    status, out = ask(*compared)
    assert (status, "would go to Staging: not " in out) == (1, True)
    status, out = ask("promote", "--to", challenger, "--because", "agreed with Ada", "--dry-run")
    assert (status, out) == (
        0,
        f"catdog version {challenger} would go to Production: agreed with Ada.\n",
    )
    assert _serving(trained) == "1"
    status, out = ask("promote", "--to", challenger, "--because", "agreed with Ada")
    assert (status, _serving(trained)) == (0, challenger)
    previous = MlflowClient(trained.server.uri).get_model_version_by_alias("catdog", "previous")
    assert str(previous.version) == "1"
    status, out = ask("promote", "--rollback", "--because", "it was a bad day")
    assert (status, _serving(trained)) == (0, "1")
    status, out = ask("promote", "--history")
    assert status == 0
    lines = out.splitlines()[1:]
    assert [line.split()[2] for line in lines] == ["1", challenger, "1"]
    assert [line.partition("agreed with Ada")[1] for line in lines] == ["", "agreed with Ada", ""]
    assert lines[0].endswith("it was a bad day")  # the newest first


def test_a_colleague_without_the_data_predicts_and_scores(trained, tmp_path):
    colleague = Colleague(tmp_path, trained.server)
    draw(tmp_path / "photos", 2)
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
    known = MlflowClient(trained.server.uri).search_model_versions("name = 'catdog'")
    colleagues = []
    for seed in (1, 2):
        colleague = Colleague(tmp_path_factory.mktemp("beside"), trained.server)
        draw(colleague.home / "pets" / "train", 15)
        colleagues.append(colleague.start("main", *SMALL, "--epochs=2", f"--seed={seed}"))
    for process in colleagues:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, out + err
    assert len(trained.runs()) == before + 2
    versions = MlflowClient(trained.server.uri).search_model_versions("name = 'catdog'")
    assert len({version.version for version in versions}) == len(versions) == len(known) + 2


def test_training_outlives_the_server_and_its_model_is_on_disk_first(trained, tmp_path):
    colleague = Colleague(tmp_path, trained.server)
    draw(tmp_path / "pets" / "train", 15)
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
    assert told[-1].startswith("error: the model could not be registered at http")
    cli = f"mlflow run . --env-manager=local -P resume={folder.name}"
    assert told[-1].endswith(f"type: {cli} -P data_dir={tmp_path / 'data'}\n")
    assert (folder / "model" / "model.json").is_file()
    assert (folder / "unsent" / "writes.jsonl").is_file()
