"""Kills while a run learns, registers and reports, and how it goes on"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from catdog import cli, pipeline
from catdog.config import PrepareConfig, TrainConfig
from catdog.registry import history
from scripts import prepare, train
from tests.faults.conftest import TINY, Child, QuickProof

pytestmark = pytest.mark.slow


def _cut_before(function: str) -> str:
    return f"""
from catdog import pipeline
from catdog.registry import history, register
from tests.faults.conftest import QuickProof
pipeline.FreshProcess = QuickProof
def cut(*a, **b):
    print("cut here", flush=True); time.sleep(60)
{function} = cut
"""


def _runs(home: Path) -> list[Path]:
    return list((home / "data" / "runs").iterdir())


def _versions() -> list[ModelVersion]:
    return MlflowClient().search_model_versions("name = 'catdog'")


def _newest_run_id() -> str:
    experiment = MlflowClient().get_experiment_by_name("catdog")
    return MlflowClient().search_runs([experiment.experiment_id])[0].info.run_id


@dataclass(frozen=True)
class Logged:
    """What a run holds, without what differs from run to run."""

    artifacts: list[str]
    metrics: dict[str, list[int]]
    tags: set[str]

    @classmethod
    def of(cls, run_id: str) -> Self:
        client = MlflowClient()
        data = client.get_run(run_id).data
        ours = [key for key in data.metrics if not key.startswith("system/")]
        steps = {key: [one.step for one in client.get_metric_history(run_id, key)] for key in ours}
        names = [re.sub(r"timestamp.*?(?=\.|[+%]comp)", "", name) for name in _files(run_id)]
        return cls(sorted(names), steps, set(data.tags))


def _files(run_id: str, folder: str = "") -> Iterator[str]:
    for file in MlflowClient().list_artifacts(run_id, folder):
        if file.is_dir:
            yield from _files(run_id, file.path)
        else:
            yield file.path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, draw_folder) -> Logged:
    """What a run logs that is never cut, in a store of its own."""
    home = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        patch.setattr(pipeline, "FreshProcess", QuickProof)
        mlflow.set_tracking_uri(None)
        draw_folder(home / "pets")
        where = ["--dataset", "pets", "--data_dir", "data"]
        assert cli.run(prepare.main, PrepareConfig, where) == 0
        assert cli.run(train.main, TrainConfig, [*where, *TINY]) == 0
        logged = Logged.of(_newest_run_id())
    mlflow.set_tracking_uri(None)
    return logged


@pytest.mark.parametrize(
    ("function", "stages"),
    [
        ("pipeline.save", []),
        ("register.add", []),
        ("history.place", ["None"]),
        ("history._set_stage", ["None"]),
        ("pipeline.summarize", ["Production"]),
    ],
    ids=["judged", "model logged", "registered", "promotion begun", "reported"],
)
def test_killed_after_training_nothing_is_lost_or_there_twice(
    run, where, tmp_path, monkeypatch, unbroken, function, stages
):
    monkeypatch.setattr(pipeline, "FreshProcess", QuickProof)
    assert run("prepare", *where).status == 0
    child = Child(_cut_before(function), "train", *where, *TINY)
    child.kill_when(lambda out: "cut here\n" in out)
    assert [version.current_stage for version in _versions()] == stages
    (folder,) = _runs(tmp_path)
    ended = run("train", *where, *TINY, "--resume", "auto")
    assert ended.status == 0, ended.err
    found = Logged.of(folder.name)
    assert found.artifacts == unbroken.artifacts
    assert found.metrics == unbroken.metrics
    assert found.tags == unbroken.tags
    (version,) = _versions()
    assert (version.run_id, version.current_stage) == (folder.name, "Production")
    assert version.description.endswith("Production: no version was in Production.\n")
    assert len(history.history("catdog")) == 1
    (model,) = mlflow.search_logged_models(output_format="list")
    assert model.model_id in version.source
    assert MlflowClient().get_run(folder.name).info.status == "FINISHED"
    assert _runs(tmp_path) == []
