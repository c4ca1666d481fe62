"""Which run goes on, and what is said of one that can't."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import MainConfig
from catdog.data.dataset import PreparedDataset
from catdog.tracking import resume as runs
from catdog.tracking.resume import Note, as_begun, clear_runs, find_runs_to_resume, open_run
from catdog.tracking.run import status_of
from tests.conftest import heard

CONFIG = MainConfig(dataset="pets", data_dir="data", epochs=7)

NEW = Note("", 9, "main", {"epochs": 7}, "d1")
NOTES = {
    "first": {"number": 1},
    "second": {"number": 2},
    "finished": {"number": 3},
    "deleted": {"number": 4},
    "other epochs": {"number": 5, "parameters": {"epochs": 8}},
    "other pictures": {"number": 6, "data_digest": "d2"},
    "other entry point": {"number": 7, "entry_point": "train"},
    "restarted": {"number": 8, "launch": "night"},
}


@pytest.mark.parametrize(
    ("resume", "launch", "goes_on"),
    [
        ("none", "", []),
        ("none", "night", ["restarted"]),
        ("none", "another night", []),
        ("auto", "", ["restarted", "second", "first"]),
        ("first", "", ["first"]),
        ("nobody", "", []),
    ],
)
def test_the_run_that_goes_on_is_found_among_the_unfinished(resume, launch, goes_on):
    notes = [dataclasses.replace(NEW, run_id=name, **fields) for name, fields in NOTES.items()]
    status = {"finished": "FINISHED", "deleted": None}
    new = dataclasses.replace(NEW, launch=launch)
    found = find_runs_to_resume(new, resume, notes, lambda run_id: status.get(run_id, "KILLED"))
    assert [note.run_id for note in found] == goes_on


def test_a_named_run_of_other_pictures_does_not_go_on():
    other = dataclasses.replace(NEW, run_id="ab", data_digest="d2")
    with pytest.raises(CatdogError, match="no longer those that the run began with"):
        find_runs_to_resume(NEW, "ab", [other], lambda _: "KILLED")


@pytest.fixture(autouse=True)
def store(tracking_store) -> str:
    return tracking_store


DATASET = PreparedDataset(Path("data/pets"), "pets.zip", "d1", "v", {}, 0)


def _cut(config: MainConfig = CONFIG) -> str:
    """Begin a run that is interrupted; its id."""
    with pytest.raises(KeyboardInterrupt), open_run(config, "main", "x", DATASET) as run:
        raise KeyboardInterrupt
    return run.id


def _resumed(resume: str, config: MainConfig = CONFIG) -> tuple[str, list[str]]:
    """Finish the run that `resume` means; its id, and what was said."""
    config = as_begun(dataclasses.replace(config, resume=resume), "main")
    with heard() as said, open_run(config, "main", "x", DATASET) as run:
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
    with pytest.raises(CatdogError, match="holds no unfinished run of this id"):
        _resumed(run_id)


def test_a_named_run_brings_its_parameters():
    run_id = _cut()
    typed = MainConfig(data_dir="data", resume=run_id)
    assert as_begun(typed, "main") == dataclasses.replace(CONFIG, resume=run_id)
    with pytest.raises(CatdogError, match=r"epochs=3 is not what run .* \(epochs=7\): leave it"):
        as_begun(dataclasses.replace(typed, epochs=3), "main")
    with pytest.raises(CatdogError, match="was begun by the entry point main: go on with mlflow"):
        as_begun(typed, "train")


def test_auto_says_which_run_goes_on():
    run_id = _cut()
    line = f"Resuming run {run_id}, the latest unfinished one of these parameters"
    assert _resumed("auto") == (run_id, [line])
    another, said = _resumed("auto")
    assert another != run_id
    assert said == ["No unfinished run has these parameters and pictures: a new one begins"]


@pytest.mark.parametrize("named", ["0" * 32, "../pets"])
def test_a_run_that_is_not_there_is_one_sentence(named):
    with pytest.raises(CatdogError, match="holds no unfinished run of this id"):
        _resumed(named)


def test_a_note_that_can_not_be_read_is_an_error_where_it_is_asked_for():
    run_id = _cut()
    path = Path("data/runs") / run_id / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(CatdogError, match="is of format 9, this catdog reads 4"):
        _resumed(run_id)
    assert json.loads(path.read_text())["format"] == 9
    path.write_text("{")
    with pytest.raises(CatdogError, match=r"run\.json can't be read"):
        _resumed(run_id)
    assert _resumed("auto")[0] != run_id


def _hold(path: Path, held: Event) -> None:
    with FileLock(path):
        held.set()
        time.sleep(60)


def test_a_run_that_another_process_works_on_is_left_alone_and_cleared_later(monkeypatch):
    run_id = _cut()
    monkeypatch.setattr(runs, "PATIENCE_S", 0.1)
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    other = fork.Process(target=_hold, args=(Path("data/runs") / run_id / "lock", held))
    other.start()
    assert held.wait(30)
    try:
        with pytest.raises(CatdogError, match="another process still works on that run"):
            _resumed(run_id)
        assert clear_runs(Path("data"), days=0) == 0
        assert _resumed("auto")[0] != run_id
    finally:
        os.kill(other.pid, 9)
        other.join()
    assert clear_runs(Path("data"), days=1) == 0
    assert clear_runs(Path("data"), days=0) > 0
    assert not (Path("data/runs") / run_id).exists()


def test_a_run_that_failed_after_it_learned_can_go_on(said):
    with (
        pytest.raises(CatdogError, match="no registry"),
        open_run(CONFIG, "main", "x", DATASET) as run,
    ):
        (run.folder / "checkpoint-1").touch()
        raise CatdogError("no registry")
    assert said == [f"Once that is mended, go on: {run.resume_command}"]
    assert status_of(run.id) == "FAILED"
    assert _resumed(run.id)[0] == run.id
