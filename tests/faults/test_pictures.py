"""Pictures"""

from __future__ import annotations

from pathlib import Path

from tests.faults.conftest import TINY


def test_training_refuses_pictures_that_are_not_those_that_were_prepared(run, where):
    ended = run("prepare", *where)
    folder = Path(ended.out.strip()) / "training"
    (folder / "cat" / "mine.jpg").write_bytes(b"mine")
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{folder / 'cat' / 'mine.jpg'} was put there after")
    assert (folder / "cat" / "mine.jpg").read_bytes() == b"mine"
