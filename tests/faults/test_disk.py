"""The disk, and what lies on it"""

from __future__ import annotations

import subprocess
from pathlib import Path

from catdog import pipeline
from tests.faults.conftest import TINY, fill


def test_a_full_disk_while_downloading_is_said(kaggle, waits, run, small_disk):
    ended = run("download", "--dataset", "kaggle:somebody/pets", "--data_dir", small_disk)
    assert ended.status == 2
    assert ended.sentence.startswith(
        f"the disk is full, somebody/pets is not whole in {small_disk}"
    )
    assert not list(small_disk.glob("*/raw/*.zip"))


def test_a_full_disk_while_caching_features_is_told(
    run, pets, small_disk, trains_quickly, monkeypatch
):
    where = ("--dataset", pets, "--data_dir", small_disk)
    real = pipeline.build_network

    def filling(*given: object, **options: object) -> object:
        fill(small_disk)  # the run has begun by now
        return real(*given, **options)

    monkeypatch.setattr(pipeline, "build_network", filling)
    assert run("prepare", *where).status == 0
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert "(No space left on device): free some space" in ended.sentence
    monkeypatch.setattr(pipeline, "build_network", real)
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    again = run("train", *where, *TINY)
    assert again.status == 0, again.err


def test_a_read_only_data_folder_is_told_by_preparing(run, pets, tmp_path, read_only):
    (tmp_path / "data").mkdir()
    data = read_only(tmp_path / "data")
    ended = run("prepare", "--dataset", pets, "--data_dir", data)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{data}")
    assert "can't be used (Read-only file system): free some space or change" in ended.sentence


def test_a_read_only_data_folder_is_told_by_training(run, pets, tmp_path, untouched, read_only):
    where = ("--dataset", pets, "--data_dir", tmp_path / "data")
    assert run("prepare", *where).status == 0
    read_only(untouched(tmp_path / "data"))
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert "can't be used (Read-only file system): free some space or change" in ended.sentence


def test_a_read_only_source_is_enough(run, pets, tmp_path, read_only):
    read_only(pets)
    ended = run("prepare", "--dataset", pets, "--data_dir", tmp_path / "data")
    assert ended.status == 0


def test_training_refuses_pictures_that_are_not_those_that_were_prepared(run, where):
    ended = run("prepare", *where)
    folder = Path(ended.out.strip()) / "training"
    (folder / "cat" / "mine.jpg").write_bytes(b"mine")
    ended = run("train", *where, *TINY)
    assert ended.status == 2
    assert ended.sentence.startswith(f"{folder / 'cat' / 'mine.jpg'} was put there after")
    assert (folder / "cat" / "mine.jpg").read_bytes() == b"mine"
