"""Which run goes on, and what is said of one that can't."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import MainConfig
from catdog.data.dataset import PreparedDataset
from catdog.tracking import resume as runs
from catdog.tracking import run as tracking
from catdog.tracking.resume import RunFolder, as_begun, clear_runs, open_run
from tests.conftest import ROOT, heard

pytestmark = pytest.mark.usefixtures("tracking_store")


CONFIG = MainConfig(dataset="pets", data_dir="data", epochs=7)


def _prepared(digest: str = "d1") -> Callable[[], PreparedDataset]:
    return lambda: PreparedDataset(Path("data/pets"), "pets.zip", digest, "v", {}, 0)


def _cut(config: MainConfig = CONFIG, digest: str = "d1") -> str:
    """Begin a run that is interrupted; its id."""
    with (
        pytest.raises(KeyboardInterrupt),
        open_run(config, "main", "x", _prepared(digest)) as (_, run),
    ):
        raise KeyboardInterrupt
    return run.id


def _resumed(resume: str, config: MainConfig = CONFIG, digest: str = "d1") -> tuple[str, list[str]]:
    """Finish the run that `resume` means; its id, and what was said."""
    config = as_begun(dataclasses.replace(config, resume=resume), "main")
    with heard() as said, open_run(config, "main", "x", _prepared(digest)) as (_, run):
        assert run.folder.is_dir()
    return run.id, said


def test_an_interrupted_run_is_killed_and_says_how_it_goes_on():
    run_id = _cut()
    run = MlflowClient().get_run(run_id)
    assert run.info.status == "KILLED"
    home = Path("data").resolve()
    assert run.data.tags["resume_with"] == (
        f"mlflow run . --env-manager=local -P resume={run_id} -P data_dir={home}"
    )


def test_a_resumed_run_is_the_same_and_leaves_nothing_behind():
    run_id = _cut()
    assert _resumed(run_id) == (run_id, [f"Resuming run {run_id}"])
    run = MlflowClient().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "resume_with" not in run.data.tags
    assert list(Path("data/runs").iterdir()) == []


def test_the_run_that_mlflow_began_is_ended_and_shown_below_the_resumed_one(monkeypatch):
    run_id = _cut()
    begun = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", begun)
    assert _resumed(run_id)[0] == run_id
    aside = MlflowClient().get_run(begun)
    assert aside.info.status == "FINISHED"
    assert aside.data.tags["mlflow.parentRunId"] == run_id


def test_a_named_run_brings_its_parameters():
    run_id = _cut()
    typed = MainConfig(data_dir="data", resume=run_id)
    assert as_begun(typed, "main") == dataclasses.replace(CONFIG, resume=run_id)
    with pytest.raises(CatdogError, match=r"epochs=3 is not what run .* \(epochs=7\): leave it"):
        as_begun(dataclasses.replace(typed, epochs=3), "main")


def test_auto_takes_the_latest_run_of_these_parameters_and_pictures():
    _cut()
    latest = _cut()
    _cut(dataclasses.replace(CONFIG, epochs=8))
    _cut(digest="d2")
    run_id, said = _resumed("auto")
    assert run_id == latest
    assert said == [f"Resuming run {latest}, the latest unfinished one of these parameters"]


def test_auto_begins_a_new_run_where_none_fits():
    others = {_cut(digest="d2"), _cut(dataclasses.replace(CONFIG, seed=1))}
    run_id, said = _resumed("auto")
    assert run_id not in others
    assert said == ["No unfinished run has these parameters and pictures: a new one begins"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("0" * 32, "holds no such run"),
        ("../pets", "holds no such run"),
    ],
)
def test_a_run_that_is_not_there_is_one_sentence(named, said):
    with pytest.raises(CatdogError, match=said):
        _resumed(named)


def test_a_finished_run_has_nothing_left_to_do():
    run_id, _ = _resumed(_cut())
    with pytest.raises(CatdogError, match="that run has finished"):
        _resumed(run_id)


def test_other_pictures_are_told_and_the_run_stays_as_it_was():
    run_id = _cut()
    with pytest.raises(CatdogError, match="no longer those that the run began with"):
        _resumed(run_id, digest="d2")
    assert tracking.status_of(run_id) == "KILLED"
    assert _resumed(run_id)[0] == run_id


def test_another_format_is_told():
    run_id = _cut()
    path = Path("data/runs") / run_id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(CatdogError, match="is of format 9, this catdog reads 1"):
        _resumed(run_id)
    path.write_text("{")
    with pytest.raises(CatdogError, match=r"run\.json can't be read"):
        _resumed(run_id)


def test_a_run_of_another_entry_point_or_store_is_told(monkeypatch, tmp_path):
    run_id = _cut()
    with pytest.raises(CatdogError, match="was begun by the entry point main"):
        as_begun(dataclasses.replace(CONFIG, resume=run_id), "train")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    mlflow.set_tracking_uri(None)
    with pytest.raises(CatdogError, match="has no such run, or it was deleted"):
        _resumed(run_id)


def test_a_run_that_another_process_works_on_is_left_alone(monkeypatch):
    run_id = _cut()
    monkeypatch.setattr(runs, "PATIENCE_S", 0.1)
    code = (
        "import sys; from pathlib import Path; from catdog.tracking.resume import RunFolder\n"
        f"folder = RunFolder.take(Path('data/runs/{run_id}')); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CatdogError, match="another process still works on that run"):
            _resumed(run_id)
        assert clear_runs(Path("data"), days=0) == 0
        assert _resumed("auto")[0] != run_id
        other.kill()
    assert _resumed(run_id)[0] == run_id


def test_a_run_that_failed_before_it_learned_leaves_nothing():
    with (
        pytest.raises(CatdogError, match="no good"),
        open_run(CONFIG, "main", "x", _prepared()) as (_, run),
    ):
        raise CatdogError("no good")
    assert not run.folder.exists()


def test_a_run_that_failed_after_it_learned_can_go_on(said):
    with (
        pytest.raises(CatdogError, match="no registry"),
        open_run(CONFIG, "main", "x", _prepared()) as (_, run),
    ):
        (run.folder / "checkpoint-1-0.pt").touch()
        raise CatdogError("no registry")
    assert said == [f"Once that is mended, go on: {run.resume_command}"]
    assert tracking.status_of(run.id) == "FAILED"
    assert _resumed(run.id)[0] == run.id


def test_a_model_that_was_being_replaced_when_the_run_was_killed_is_in_its_place_again():
    path = Path("data/runs") / _cut()
    (path / ".model.before").mkdir()
    folder = RunFolder.take(path)
    assert folder.model.is_dir()
    folder.release()


def test_old_runs_are_cleared():
    run_id = _cut()
    assert clear_runs(Path("data"), days=1) == 0
    assert clear_runs(Path("data"), days=0) > 0
    assert not (Path("data/runs") / run_id).exists()


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    config = dataclasses.replace(CONFIG, data_dir=str(tmp_path / "file"))
    with pytest.raises(CatdogError, match="choose another folder with --data_dir"):
        RunFolder.begin(config, "0" * 32, "main")


def test_a_process_that_torchrun_restarts_goes_on_with_its_run(monkeypatch):
    others = _cut()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night")
    run_id = _cut()
    assert _resumed("none")[0] == run_id
    assert _resumed("none")[0] not in (run_id, others)  # that one was finished


def test_a_run_that_torchrun_may_restart_is_kept_before_its_first_checkpoint(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with (
        pytest.raises(RuntimeError),
        open_run(CONFIG, "main", "x", _prepared()) as (_, run),
    ):
        raise RuntimeError
    assert MlflowClient().get_run(run.id).info.status == "FAILED"
    assert _resumed("none")[0] == run.id


def test_a_run_of_several_processes_goes_on_with_as_many(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = MlflowClient().get_run(_cut())
    assert run.data.tags["resume_with"].endswith(" -P processes=2")
