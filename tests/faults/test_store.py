"""Training, the store and the registry"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from catdog import pipeline, sweep
from catdog.inference import inputs
from catdog.registry import history, versions
from catdog.training import loop
from tests.faults.conftest import TINY, QuickProof


@dataclass(frozen=True)
class Shop:
    """A trained project: its store, the arguments that trained it, and its registered model."""

    root: Path
    where: tuple[str, ...]

    @property
    def model(self) -> Path:
        """The folder of the files of version 1."""
        return versions.fetch("models:/catdog/1")

    def runs(self) -> list[mlflow.entities.Run]:
        client = MlflowClient()
        experiment = client.get_experiment_by_name("catdog")
        return client.search_runs([experiment.experiment_id])

    def newest_run(self) -> mlflow.entities.Run:
        return self.runs()[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which a tiny classifier was trained and registered."""
    from catdog import cli, config
    from scripts import main
    from tests.conftest import COLOURS, tiny_picture

    root = tmp_path_factory.mktemp("trained")
    for name in COLOURS:
        (root / "pets" / name).mkdir(parents=True)
        for number in range(6):
            tiny_picture(name, number).save(root / "pets" / name / f"{number}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        patch.setattr(pipeline, "FreshProcess", QuickProof)
        mlflow.set_tracking_uri(None)
        where = ["--dataset", "pets", "--data_dir", "data", *TINY]
        assert cli.run(main.main, config.MainConfig, where) == 0
    mlflow.set_tracking_uri(None)
    return root


@pytest.fixture
def shop(trained, monkeypatch, trains_quickly) -> Shop:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained}/mlflow.db")
    return Shop(trained, ("--dataset", "pets", "--data_dir", "data", *TINY))


def test_a_clock_that_goes_backwards_does_no_harm(run, shop, monkeypatch):
    steps = iter(range(10**9))
    for name, back in (("time", 60), ("time_ns", 60 * 10**9)):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real, back=back: real() - back * next(steps))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - timedelta(days=1 + next(steps))

    monkeypatch.setattr(history, "datetime", Backwards)
    ended = run("train", *shop.where, "--promote", "always")
    assert ended.status == 0, ended.err
    assert {one.info.status for one in shop.runs()} == {"FINISHED"}
    newest = versions.versions("catdog")[-1]
    assert history.history("catdog")[-1].version == str(newest.version)


def test_a_loss_that_is_no_number_keeps_the_best_model(run, shop, monkeypatch):
    real, seen = loop.train_epoch, []

    def poisoned(model, *rest, **options):
        answer = real(model, *rest, **options)
        seen.append(answer)
        if len(seen) == 2:
            with torch.no_grad():
                model.linear.weight.fill_(float("nan"))
        return answer

    monkeypatch.setattr(loop, "train_epoch", poisoned)
    ended = run("train", *shop.where, "--epochs", "9")
    assert ended.status == 0, ended.err
    assert "warning: training diverged in epoch 2" in ended.err
    assert "kept epoch 1" in ended.err
    newest = shop.newest_run()
    assert newest.data.tags["stopped_because"].startswith("training diverged in epoch 2")
    assert newest.data.metrics["best_epoch"] == 1
    assert "registered_version" in newest.data.tags


def test_a_sweeps_database_that_breaks_is_told_and_the_same_command_goes_on(
    run, where, tmp_path, trains_quickly, monkeypatch
):
    monkeypatch.setattr(sweep, "HEARTBEAT_S", 1)
    database = tmp_path / "data" / "sweeps.db"
    whole: list[bytes] = []
    real = sweep.fit

    def breaking(*rest: object, **options: object) -> object:
        fitted = real(*rest, **options)
        whole.append(database.read_bytes())
        if len(whole) == 2:
            database.write_bytes(b"no database" * 1000)
        return fitted

    arguments = (*where, *TINY, "--trials", "3", "--most_views", "1", "--promote", "never")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "fit", breaking)
        ended = run("sweep", *arguments)
    assert ended.status == 2
    assert ended.sentence.startswith(f"storage=sqlite:///{database} does not answer (file is not")
    assert [one.info.status for one in _sweeps()] == ["FAILED"]
    database.write_bytes(whole[1])
    ended = run("sweep", *arguments)
    assert ended.status == 0, ended.err
    assert ": 1 of 3 trials are there" in ended.err
    assert [one.info.status for one in _sweeps()] == ["FINISHED", "FAILED"]


def _sweeps() -> list[mlflow.entities.Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("catdog")
    return client.search_runs([experiment.experiment_id], "params.trials = '3'")


@pytest.fixture
def second(shop) -> int:
    """Another version of the same model, to be deleted."""
    client = MlflowClient()
    source = client.get_model_version("catdog", "1").source
    return client.create_model_version("catdog", source).version


def test_a_version_that_is_deleted_meanwhile_answers_to_the_end(run, shop, second, monkeypatch):
    real = inputs.Photo.read

    def deleting(photo):
        if any(one.version == second for one in MlflowClient().search_model_versions()):
            MlflowClient().delete_model_version("catdog", str(second))
        return real(photo)

    monkeypatch.setattr(inputs.Photo, "read", deleting)
    uri = f"models:/catdog/{second}"
    ended = run("predict", "pets/cat", "--model_uri", uri, "--format", "json")
    assert ended.status == 0, ended.err
    assert len(json.loads(ended.out)) == 6
    again = run("predict", "pets/cat", "--model_uri", uri)
    assert again.status == 2
    assert again.sentence.startswith(f"{uri} does not name a model. Versions of 'catdog': 1")


def test_a_registered_model_that_was_tampered_with_is_not_used(run, shop):
    path = shop.model / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        ended = run("predict", "pets/cat", "--model_uri", "models:/catdog/1")
    finally:
        path.write_bytes(content)
    assert (ended.status, ended.out) == (2, "")
    assert "weights.safetensors" in ended.sentence
    assert "differs" in ended.sentence
