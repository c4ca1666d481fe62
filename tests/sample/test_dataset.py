"""The drawn sample: the same for the same seed, whole or absent, and fit to learn from."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog import CLASSES, CatdogError
from catdog.data import images
from catdog.sample.dataset import draw_sample


def contents(folder: Path) -> dict[str, bytes]:
    """Each picture's name and bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.jpg"))
    }


def draw_in_another_process(folder: Path, count: int) -> subprocess.Popen[bytes]:
    code = (
        "import sys, pathlib; from catdog.sample.dataset import draw_sample; "
        "draw_sample(pathlib.Path(sys.argv[1]), seed=0, count=int(sys.argv[2]), test_count=1)"
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(count)], cwd=root)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path):
    first, second, other = (
        contents(draw_sample(tmp_path / name, seed=seed, count=4, test_count=2))
        for name, seed in (("first", 5), ("second", 5), ("other", 6))
    )
    assert first == second
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_a_picture_does_not_depend_on_how_many_others_are_drawn(tmp_path):
    few = contents(draw_sample(tmp_path / "few", seed=0, count=2, test_count=1))
    many = contents(draw_sample(tmp_path / "many", seed=0, count=6, test_count=3))
    assert few.items() <= many.items()
    assert len(set(many.values())) == 9


def test_half_of_the_labelled_pictures_show_each_class_and_all_decode(tmp_path):
    drawn = contents(draw_sample(tmp_path / "deep" / "raw", seed=0, count=6, test_count=2))
    labelled = {f"train/{name}.{number}.jpg" for name in CLASSES for number in range(3)}
    assert set(drawn) == labelled | {"test/1.jpg", "test/2.jpg"}
    assert {images.decode(content).mode for content in drawn.values()} == {"RGB"}


def test_a_finished_sample_is_left_untouched(tmp_path):
    folder = draw_sample(tmp_path / "raw", seed=0, count=2, test_count=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert draw_sample(folder, seed=0, count=2, test_count=1) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_of_another_seed_or_with_a_picture_missing_is_drawn_again(tmp_path, seed):
    folder = draw_sample(tmp_path / "raw", seed=0, count=4, test_count=1)
    (folder / "train" / "dog.1.jpg").unlink()
    redrawn = contents(draw_sample(folder, seed=seed, count=4, test_count=1))
    assert redrawn == contents(draw_sample(tmp_path / "new", seed=seed, count=4, test_count=1))


def test_a_killed_run_leaves_nothing_finished_and_the_next_completes_it(tmp_path):
    folder = tmp_path / "raw"
    killed = draw_in_another_process(folder, count=10_000)
    wait_until(lambda: any(tmp_path.rglob("cat.1.jpg")))
    killed.kill()
    killed.wait()
    assert not folder.exists()
    assert any(tmp_path.glob(".raw.drawing-*"))
    draw_sample(folder, seed=0, count=2, test_count=1)
    assert len(contents(folder)) == 3
    assert not any(tmp_path.glob(".raw.drawing-*"))


def test_two_processes_may_draw_the_same_sample_at_once(tmp_path):
    folder = tmp_path / "raw"
    both = [draw_in_another_process(folder, count=20) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(contents(folder)) == 21
    assert not any(tmp_path.glob(".raw.drawing-*"))


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "raw"
    with pytest.raises(CatdogError, match="choose another with --data_dir") as caught:
        draw_sample(folder, seed=0, count=2, test_count=0)
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CatdogError, match=r"No space left.*free some space"):
        draw_sample(tmp_path / "raw", seed=0, count=2, test_count=0)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_folder_of_somebody_elses_files_is_never_replaced(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "thesis.txt").write_text("five years of work")
    with pytest.raises(CatdogError, match="something other than a drawn sample"):
        draw_sample(tmp_path / "raw", seed=0, count=2, test_count=0)
    assert (tmp_path / "raw" / "thesis.txt").read_text() == "five years of work"
