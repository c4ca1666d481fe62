"""The drawn sample: the same for the same seed, whole or absent, and fit to learn from."""

from __future__ import annotations

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


def test_the_same_seed_gives_the_same_bytes_however_many_are_drawn(tmp_path):
    few = contents(draw_sample(tmp_path / "few", seed=5, count=2, test_count=1))
    many = contents(draw_sample(tmp_path / "many", seed=5, count=6, test_count=3))
    other = contents(draw_sample(tmp_path / "other", seed=6, count=6, test_count=3))
    assert few.items() <= many.items()
    assert many.keys() == other.keys()
    assert len({*many.values(), *other.values()}) == 18


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


def test_a_folder_of_somebody_elses_files_is_never_replaced(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "thesis.txt").write_text("five years of work")
    with pytest.raises(CatdogError, match="something other than a drawn sample"):
        draw_sample(tmp_path / "raw", seed=0, count=2, test_count=0)
    assert (tmp_path / "raw" / "thesis.txt").read_text() == "five years of work"
