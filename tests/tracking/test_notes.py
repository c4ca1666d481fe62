from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.tracking import store
from catdog.tracking.notes import Note, notes_in, read_note, resuming


def _begun(folder: Path, entry_point: str = "main", processes: int = 1) -> Path:
    folder.mkdir(parents=True)
    note = Note(folder.name, 1, entry_point, {}, processes=processes)
    (folder / "run.json").write_text(json.dumps(asdict(note)))
    return folder


def test_the_line_that_lets_a_run_go_on_names_what_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    command = "mlflow run . --env-manager=local"
    own = tmp_path / "data" / "runs"
    assert resuming(own / "ab") == f"{command} -P resume=ab"
    assert resuming(_begun(own / "cd")) == f"{command} -P resume=cd"
    assert resuming(_begun(own / "ef", "sweep")) == f"{command} -e sweep -P resume=ef"
    elsewhere = _begun(tmp_path / "my data" / "runs" / "gh", "train", processes=2)
    where = f"-P 'data_dir={tmp_path / 'my data'}' -P processes=2"
    assert resuming(elsewhere) == f"{command} -e train -P resume=gh {where}"


def test_notes_that_can_not_be_read_are_told_where_they_are_asked_for(tmp_path):
    _begun(tmp_path / "ab")
    _begun(tmp_path / "cd").joinpath("run.json").write_text("{")
    assert [note.run_id for note in notes_in(tmp_path)] == ["ab"]
    with pytest.raises(CatdogError, match=r"cd/run\.json can't be read .*: begin a new run"):
        read_note(tmp_path / "cd")
