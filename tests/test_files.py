from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.files import atomic_write, beside, mend, put_in_place, sha256_of, write_json
from tests.conftest import child_environment

KILLED = """
import os, signal, sys
from pathlib import Path
from catdog import files

renames, number = iter(range(9)), int(sys.argv[1])
real = Path.rename

def rename(path, target):
    if next(renames) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, target)

Path.rename = rename
new = files.beside(Path("model"))
new.mkdir()
(new / "weights").write_text("new")
files.put_in_place(new, Path("model"))
"""


def _write(text: str) -> None:
    new = beside(Path("model"))
    new.mkdir()
    (new / "weights").write_text(text)
    put_in_place(new, Path("model"))


def test_the_new_folder_takes_the_place_of_the_old_one():
    _write("old")
    _write("new")
    assert Path("model/weights").read_text(encoding="utf-8") == "new"
    assert list(Path().iterdir()) == [Path("model")]


@pytest.mark.parametrize("rename", [0, 1])
def test_a_kill_at_either_step_of_the_exchange_leaves_a_whole_folder(rename):
    _write("old")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(rename)], env=child_environment(), check=False
    )
    assert ended.returncode == -signal.SIGKILL
    mend(Path("model"))
    assert Path("model/weights").read_text(encoding="utf-8") == "old"
    _write("newer")
    assert Path("model/weights").read_text(encoding="utf-8") == "newer"
    assert list(Path().iterdir()) == [Path("model")]


def test_an_old_folder_that_a_kill_left_beside_the_new_one_goes():
    _write("new")
    before = Path(".model.before")
    before.mkdir()
    mend(Path("model"))
    assert Path("model/weights").read_text(encoding="utf-8") == "new"
    assert not before.exists()


def test_what_can_not_be_written_whole_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "note.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_written_whole_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "table.csv"
    for content in (b"old", b"new"):
        with atomic_write(path) as part:
            part.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()
    assert list(tmp_path.iterdir()) == [path]
