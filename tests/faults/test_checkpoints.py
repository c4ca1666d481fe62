"""Checkpoints and resuming"""

from __future__ import annotations

import json
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
from catdog.training.checkpoint import Checkpoint, CheckpointFolder
from scripts import prepare, train
from tests.faults.conftest import TINY, Child, Ended, QuickProof, Run, fill

pytestmark = pytest.mark.slow

LONGER = (*TINY[:4], "--epochs", "6", "--patience", "9", "--device", "cpu")

SLOW_TRAINING = """
from catdog import pipeline
real = pipeline._log_epoch
def slow(*a):
    real(*a); time.sleep(0.2)
pipeline._log_epoch = slow
"""
CUT_BEFORE_REGISTERING = """
from catdog.registry import register
def slow(*a, **b):
    print("logged", flush=True); time.sleep(60)
register.add = slow
"""
CUT_BEFORE_THE_STAGE = """
from catdog import pipeline
from catdog.registry import history
from tests.faults.conftest import QuickProof
pipeline.FreshProcess = QuickProof
def slow(*a, **b):
    print("explained", flush=True); time.sleep(60)
history._set_stage = slow
"""
CUT_AFTER = {
    moment: f"""
from catdog import pipeline
from tests.faults.conftest import QuickProof
pipeline.FreshProcess = QuickProof
real = pipeline.{function}
def slow(*a, **b):
    real(*a, **b); print("cut here", flush=True); time.sleep(60)
pipeline.{function} = slow
"""
    for moment, function in (("judging", "_log_judgement"), ("reporting", "report_findings"))
}
"""A kill when a function has done its work, and what comes after has not begun."""


def _runs(home: Path) -> list[Path]:
    return list((home / "data" / "runs").iterdir())


def _run(run_id: str) -> mlflow.entities.Run:
    return MlflowClient().get_run(run_id)


def _losses(run_id: str) -> dict[int, float]:
    history = MlflowClient().get_metric_history(run_id, "val_loss")
    assert len({one.step for one in history}) == len(history)
    return {one.step: one.value for one in history}


def _versions() -> list[ModelVersion]:
    return MlflowClient().search_model_versions("name = 'catdog'")


def _newest_run_id() -> str:
    experiment = MlflowClient().get_experiment_by_name("catdog")
    return MlflowClient().search_runs([experiment.experiment_id])[0].info.run_id


def _told(ended: Ended, start: str) -> list[str]:
    return [line for line in ended.err.splitlines() if line.startswith(start)]


@pytest.fixture
def cut(run: Run, where, tmp_path, trains_quickly) -> Path:
    """The folder of a run that was killed in its fourth epoch."""
    assert run("prepare", *where).status == 0
    child = Child(SLOW_TRAINING, "train", *where, *LONGER)
    child.kill_when(lambda out: "epoch   4" in out)
    (folder,) = _runs(tmp_path)
    assert len(list(folder.glob("checkpoint-*"))) == 2
    return folder


def test_killed_in_training_it_goes_on_to_what_an_unbroken_run_learns(run, where, cut, tmp_path):
    ended = run("train", *where, *LONGER, "--resume", "auto")
    assert ended.status == 0, ended.err
    assert not _told(ended, "epoch   1")
    assert _run(cut.name).info.status == "FINISHED"
    assert _runs(tmp_path) == []
    (version,) = _versions()
    assert (version.run_id, version.current_stage) == (cut.name, "Production")
    assert run("train", *where, *LONGER).status == 0
    unbroken = _newest_run_id()
    assert unbroken != cut.name
    assert _losses(cut.name) == pytest.approx(_losses(unbroken), abs=1e-6)
    assert list(_losses(cut.name)) == [1, 2, 3, 4, 5, 6]


def test_a_run_of_a_newer_format_is_told_and_left_alone(run, where, cut, untouched):
    note = cut / "run.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"format": 2, "new": "field"}))
    untouched(cut)
    ended = run("train", *where, *LONGER, "--resume", cut.name)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{note} is of format 2, this catdog reads 1")


def _fill_after_the_second(disk: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Fill the disk when two checkpoints are there; their names, once they are."""
    save, kept = CheckpointFolder.save, []

    def filling(folder: CheckpointFolder, checkpoint: Checkpoint) -> None:
        save(folder, checkpoint)
        names = {path.name for path in disk.glob("*/checkpoint-*")}
        if len(names) == 2 and not kept:
            kept.append(names)
            fill(disk)

    monkeypatch.setattr(CheckpointFolder, "save", filling)
    return kept


def test_a_full_disk_when_the_model_is_saved_loses_no_training(
    run, where, tmp_path, mount_disk, monkeypatch, trains_quickly
):
    disk = mount_disk(tmp_path / "data" / "runs", "32m")
    _fill_after_the_second(disk, monkeypatch)
    assert run("prepare", *where).status == 0
    ended = run("train", *where, *LONGER)
    assert ended.status == 2
    (folder,) = disk.glob("*/")
    assert ended.sentence.startswith(f"the model can't be written to {folder / 'model'}")
    assert "No space left" in ended.sentence
    assert f"resume={folder.name}" in ended.err
    assert not (folder / "model").exists()
    assert _versions() == []
    (disk / "filler").unlink()
    again = run("train", *where, *LONGER, "--resume", folder.name)
    assert again.status == 0, again.err
    assert not _told(again, "epoch   2")
    assert [one.current_stage for one in _versions()] == ["Production"]


def test_killed_before_registering_no_model_is_left_that_nobody_registered(
    run, where, tmp_path, trains_quickly
):
    assert run("prepare", *where).status == 0
    child = Child(CUT_BEFORE_REGISTERING, "train", *where, *TINY)
    child.kill_when(lambda out: "logged\n" in out)
    assert _versions() == []
    ended = run("train", *where, *TINY, "--resume", "auto")
    assert ended.status == 0, ended.err
    (version,) = _versions()
    assert version.current_stage == "Production"
    (model,) = mlflow.search_logged_models(output_format="list")
    assert model.model_id in version.source


def test_killed_before_the_stage_is_moved_the_promotion_is_made_again(run, where, trains_quickly):
    assert run("prepare", *where).status == 0
    child = Child(CUT_BEFORE_THE_STAGE, "train", *where, *TINY)
    child.kill_when(lambda out: "explained\n" in out)
    (version,) = _versions()
    assert version.current_stage == "None"
    ended = run("train", *where, *TINY, "--resume", "auto")
    assert ended.status == 0, ended.err
    (version,) = _versions()
    assert version.current_stage == "Production"
    assert version.description.endswith("Production: no version was in Production.\n")
    assert len(history.history("catdog")) == 1


@dataclass(frozen=True)
class Logged:
    """What a run holds, without what differs from run to run."""

    artifacts: list[str]
    metrics: dict[str, list[int]]
    tags: set[str]

    @classmethod
    def of(cls, run_id: str) -> Self:
        run, client = _run(run_id), MlflowClient()
        ours = [key for key in run.data.metrics if not key.startswith("system/")]
        steps = {key: [one.step for one in client.get_metric_history(run_id, key)] for key in ours}
        names = [re.sub(r"timestamp.*?(?=\.|[+%]comp)", "", name) for name in _files(run_id)]
        return cls(sorted(names), steps, set(run.data.tags))


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


@pytest.mark.parametrize("moment", ["judging", "reporting"])
def test_killed_while_judging_or_reporting_nothing_is_lost_or_there_twice(
    run, where, tmp_path, monkeypatch, unbroken, moment
):
    monkeypatch.setattr(pipeline, "FreshProcess", QuickProof)
    assert run("prepare", *where).status == 0
    child = Child(CUT_AFTER[moment], "train", *where, *TINY)
    child.kill_when(lambda out: "cut here\n" in out)
    (folder,) = _runs(tmp_path)
    ended = run("train", *where, *TINY, "--resume", "auto")
    assert ended.status == 0, ended.err
    found = Logged.of(folder.name)
    assert found.artifacts == unbroken.artifacts
    assert found.metrics == unbroken.metrics
    assert found.tags == unbroken.tags
    (version,) = _versions()
    assert (version.run_id, version.current_stage) == (folder.name, "Production")
    assert len(mlflow.search_logged_models(output_format="list")) == 1
    assert _run(folder.name).info.status == "FINISHED"
    assert _runs(tmp_path) == []
