from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from catdog import CatdogError
from catdog.tracking.notes import Note, notes_in, read_note


def _begun(folder: Path) -> Path:
    folder.mkdir(parents=True)
    note = Note(folder.name, 1, "main", {})
    (folder / "run.json").write_text(json.dumps(asdict(note)))
    return folder


def test_notes_that_can_not_be_read_are_told_where_they_are_asked_for(tmp_path):
    _begun(tmp_path / "ab")
    _begun(tmp_path / "cd").joinpath("run.json").write_text("{")
    assert [note.run_id for note in notes_in(tmp_path)] == ["ab"]
    with pytest.raises(CatdogError, match=r"cd/run\.json can't be read .*: begin a new run"):
        read_note(tmp_path / "cd")
