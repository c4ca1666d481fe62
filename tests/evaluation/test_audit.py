from __future__ import annotations

import csv
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from catdog import CLASSES
from catdog.config import AuditConfig
from catdog.evaluation.audit import (
    DUPLICATE_CORRELATION,
    find_issues,
    near_duplicates,
    other_label_probability,
    outlier_scores,
)
from catdog.evaluation.slices import look_at
from catdog.sample.drawing import draw_animal
from catdog.training.loop import seed_everything
from scripts import audit as script
from tests.conftest import encoded
from tests.sources import prepare_pictures


def _features(count: int = 400, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds that overlap a little, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = rng.normal(size=(count, width)).astype(np.float32)
    features[:, :6] += (2 * labels - 1)[:, None]
    return features, labels


@given(st.integers(0, 5))
def test_planted_wrong_labels_come_first(seed):
    features, labels = _features()
    planted = np.random.default_rng(seed).choice(len(labels), 8, replace=False)
    labels[planted] ^= 1
    other = other_label_probability(features, labels)
    first = np.argsort(-other)[:16]
    assert np.isin(planted, first).mean() >= 0.8


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [draw_animal(n % 2, Random(f"audit{n}")) for n in range(24)]


def _coarse_mirror(picture: Image.Image) -> bytes:
    tiny = picture.resize((picture.width // 3, picture.height // 3))
    return encoded(ImageOps.mirror(tiny), quality=30)


CHANGES = {
    "upside down": lambda picture: encoded(ImageOps.flip(picture), quality=80),
    "turned": lambda picture: encoded(picture.rotate(180), quality=80),
    "tiny, coarse and mirrored": _coarse_mirror,
}


@pytest.mark.parametrize("change", CHANGES)
def test_twins_across_the_split_are_found_and_nothing_else(drawn, change):
    contents = [encoded(picture) for picture in drawn]
    contents += [CHANGES[change](picture) for picture in drawn[:8]]
    validation = np.arange(len(contents)) >= 16  # eight others, and the twins of the first
    found = near_duplicates([look_at(content) for content in contents], validation)
    assert {(ours, theirs) for ours, theirs, _ in found} == {(n, 24 + n) for n in range(8)}
    assert all(DUPLICATE_CORRELATION <= alike <= 1 for _, _, alike in found)


def test_empty_pictures_are_no_twins():
    white = look_at(encoded(Image.new("RGB", (40, 40), "white")))
    assert near_duplicates([white, white], np.array([True, False])) == []


def test_a_picture_unlike_all_others_is_odd():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 16)) * 0.3 + 1).astype(np.float32)
    features[17] = -features[17]
    odd, nearest = outlier_scores(features)
    assert odd.argmax() == 17
    assert odd[17] > 10
    assert 17 not in nearest


def test_issues_name_the_picture_and_what_to_do(drawn):
    contents = [encoded(picture) for picture in drawn]
    contents.append(_coarse_mirror(drawn[2]))
    features, labels = _features(25, 640)
    features[:, :320] += 2 * (2 * labels - 1)[:, None]
    features[24] = features[2]
    features[7] = features[7] * 0.1 + 9 * (np.arange(640) == 639)
    labels[4] ^= 1
    rows = [
        {"path": f"p{n}", "label": CLASSES[label], "sha256": f"d{n}"}
        | {"split": "validation" if n >= 16 else "training"}
        for n, label in enumerate(labels)
    ]
    issues = find_issues(
        rows, features, [look_at(content) for content in contents], classes=CLASSES
    )
    found = {(issue.issue, issue.path): issue for issue in issues}
    wrong, twin = found["wrong_label", "p4"], found["near_duplicate", "p2"]
    assert (wrong.detail, wrong.sha256, wrong.other_sha256) == ("cat", "d4", "")
    assert (twin.detail, twin.sha256, twin.other_sha256) == ("p24", "d2", "d24")
    assert found["unlike_others", "p7"].sha256 == "d7"
    assert all(0.5 <= issue.score <= 1 for issue in issues)
    kinds = [issue.issue for issue in issues]
    assert kinds == sorted(kinds, key=("wrong_label", "near_duplicate", "unlike_others").index)


def test_a_prepared_data_set_is_audited_beside_its_manifest_and_stays_as_it_is(
    said, tmp_path, draw_folder, capsys
):
    raw = draw_folder(tmp_path / "raw", 8)
    dataset = prepare_pictures(raw, tmp_path / "data" / "raw", val_fraction=0.25)
    before = {path: path.read_bytes() for path in dataset.folder.rglob("*") if path.is_file()}
    config = AuditConfig(
        dataset=str(raw), data_dir="data", backbone="test_resnet", weights="none", device="cpu"
    )
    for computed in (16, 0):
        seed_everything(0)
        assert script.main(config) == 0
        assert f"Features: {computed} computed, {16 - computed} found" in said
    assert "exclude.txt" in said[-1]
    assert "wrong_label: " in capsys.readouterr().out
    with (dataset.folder / "audit.csv").open(encoding="utf-8", newline="") as stream:
        found = {(row["path"], row["sha256"]) for row in csv.DictReader(stream)}
    rows = dataset.rows("training") + dataset.rows("validation")
    assert found <= {(row["path"], row["sha256"]) for row in rows}
    assert before.items() <= {it: it.read_bytes() for it in dataset.folder.rglob("*.*")}.items()
    assert prepare_pictures(raw, dataset.folder, val_fraction=0.25) == dataset
