"""Two real versions of a real registry, on real tiny photos."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import mlflow
import numpy as np
import pytest

from catdog import CatdogError, cli
from catdog.config import PromoteConfig
from catdog.inference.classifier import photo_keys
from catdog.registry import history, register, versions
from catdog.registry.compare import Answers, compare_fairly, compare_with_champion
from catdog.registry.promote import history_table, promote
from catdog.registry.promotion import PRODUCTION, STAGING, Candidate
from catdog.tracking.run import start_run
from scripts import promote as script
from tests.conftest import tiny_classifier
from tests.sources import prepare_pictures


@pytest.fixture
def prepared(tmp_path, draw_folder):
    source = draw_folder(tmp_path / "raw", 30)
    return prepare_pictures(source, tmp_path / "data" / "pets", val_fraction=0.5)


@pytest.fixture
def release(tmp_path, tracking_store, prepared):
    """A function that registers a classifier whose head is scaled, turned or taught."""
    mlflow.set_tracking_uri(tracking_store)

    def release(scale: float = 1.0, *, learned=(), knows=True, **fields):
        tiny = tiny_classifier()
        tiny.head.weight *= scale
        tiny.head.bias *= scale
        tiny.learned = np.unique(photo_keys(learned)) if knows else None
        folder = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        digest = tiny.save(folder)
        candidate = Candidate(fields.pop("digest", "?"), drawn=False, status="approved")
        with start_run("x") as run:
            photo = next((prepared.folder / "training" / "cat").iterdir()).read_bytes()
            logged = register.log_model(folder, photo, run, step=1, tags={})
        candidate = replace(candidate, **fields)
        return register.add(logged.model_uri, "pets", candidate, digest=digest, card="# A card")

    return release


def _config(tmp_path, **fields) -> PromoteConfig:
    return PromoteConfig(**{"name": "pets", "data_dir": str(tmp_path / "data")} | fields)


def _digests(prepared, split="validation"):
    return [row["sha256"] for row in prepared.rows(split)]


def test_a_surely_better_version_takes_the_place_and_a_worse_one_does_not(release, tmp_path):
    release(0.2), release(1.0), release(-1.0)
    first = promote(_config(tmp_path, version="1"))
    assert (first.decision.stage, first.serves) == (PRODUCTION, True)
    better = promote(_config(tmp_path, version="2"))
    assert better.decision.told.startswith("surely better than version 1: 0 of 30 photos")
    worse = promote(_config(tmp_path))  # the newest
    assert (worse.version.version, worse.decision.stage) == (3, STAGING)
    assert worse.decision.told.startswith("surely worse than version 2: 0 of 30 photos put")
    assert str(versions.champion("pets").version) == "2"


def test_a_dry_run_decides_and_changes_nothing(release, tmp_path):
    release(0.2), release(1.0)
    promote(_config(tmp_path, version="1"))
    before = history.history("pets"), versions.versions("pets")[1].tags
    for asked in ({}, {"to": "2"}):
        outcome = promote(_config(tmp_path, dry_run="yes", **asked))
        assert outcome.serves
    assert (history.history("pets"), versions.versions("pets")[1].tags) == before
    assert str(versions.champion("pets").version) == "1"


def test_photos_that_one_of_the_two_has_learned_are_no_evidence(release, tmp_path, prepared):
    held = _digests(prepared)  # 15 of a cat, then 15 of a dog
    release(0.2, learned=held[:4]), release(1.0, learned=held[-5:])
    promote(_config(tmp_path, version="1"))
    outcome = promote(_config(tmp_path))
    assert "than version 1: 0 of 21 photos" in outcome.decision.told


def test_too_few_photos_are_told_as_not_comparable(release, tmp_path, prepared):
    release(0.2, learned=_digests(prepared)[:10]), release(1.0)
    promote(_config(tmp_path, version="1"))
    outcome = promote(_config(tmp_path))
    assert outcome.decision.stage == STAGING
    assert outcome.decision.told == (
        "not comparable with version 1: "
        "of 30 photos only 5 of a cat and 15 of a dog were learned by neither"
    )


def test_an_older_version_is_comparable_where_it_was_validated_on_the_same_photos(
    release, tmp_path, prepared
):
    release(0.2, knows=False, digest=prepared.validation_digest)
    release(0.2, knows=False, digest="of other photos")
    release(1.0)
    promote(_config(tmp_path, version="2"))
    outcome = promote(_config(tmp_path))
    assert "which photos it learned from is not known" in outcome.decision.told
    promote(_config(tmp_path, to="1"))
    assert promote(_config(tmp_path)).serves


def test_photos_of_a_folder_are_compared_on_and_unreadable_ones_told(
    said, release, tmp_path, draw_folder
):
    folder = draw_folder(tmp_path / "new", 12, start=500)
    (folder / "cat" / "broken.jpg").write_bytes(b"no picture")
    release(0.2), release(1.0)
    promote(_config(tmp_path, version="1"))
    outcome = promote(_config(tmp_path, data=str(folder)))
    assert "0 of 24 photos put right" in outcome.decision.told
    assert [line.split(": ")[0] for line in said if "left out" in line] == [
        f"left out {folder / 'cat' / 'broken.jpg'}"
    ]


def test_the_script_goes_back_and_forth_and_tells_the_history(
    release, tmp_path, capsys, monkeypatch
):
    release(0.2), release(1.0)
    for flags, status, told in (
        (["--version", "1"], 0, "version 1 is in Production: no version was in"),
        (["--to", "2", "--because", "Ada asked"], 0, "version 2 is in Production: Ada asked."),
        (["--dry-run", "--rollback"], 0, "version 1 would go to Production: rolled back."),
        (["--rollback"], 0, "version 1 is in Production: rolled back."),
    ):
        monkeypatch.setattr(
            sys, "argv", ["promote.py", "--name", "pets", "--data_dir", str(tmp_path), *flags]
        )
        assert cli.run(script.main, PromoteConfig) == status
        assert told in capsys.readouterr().out
    lines = history_table(history.history("pets")).splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["1", "2", "1"]
    assert lines[2].endswith("Ada asked")


def test_a_version_that_does_not_exist_is_answered_with_those_that_do(release, tmp_path):
    with pytest.raises(CatdogError, match="no version of pets to promote"):
        promote(_config(tmp_path))
    release()
    with pytest.raises(CatdogError, match=r"has no version '7'. It has: 1\."):
        promote(_config(tmp_path, to="7"))


def test_the_champion_itself_is_told_to_be_there_already(release, tmp_path):
    release()
    promote(_config(tmp_path))
    again = promote(_config(tmp_path))
    assert again.decision.told == "it is in Production already"
    assert len(history.history("pets")) == 1


def test_a_version_whose_proof_is_missing_waits_for_its_run(release, tmp_path):
    release(0.2), release(1.0, status="pending")
    assert str(promote(_config(tmp_path)).version.version) == "1"
    assert str(promote(_config(tmp_path)).version.version) == "1"  # not the newest
    with pytest.raises(CatdogError, match=r"Let that go on: mlflow run . -P resume="):
        promote(_config(tmp_path, version="2"))
    assert versions.numbered("pets", "2").tags["validation_status"] == "pending"


def test_a_version_that_was_rolled_back_is_not_tried_again_by_itself(release, tmp_path):
    release(0.2), release(1.0)
    promote(_config(tmp_path, version="1"))
    promote(_config(tmp_path))
    promote(_config(tmp_path, rollback="yes"))
    again = promote(_config(tmp_path))
    assert (str(again.version.version), again.decision.reason) == (
        "1",
        "it is in Production already",
    )


def test_two_versions_at_once_and_a_long_story_are_refused(release, tmp_path):
    with pytest.raises(CatdogError, match="give one of them"):
        promote(_config(tmp_path, to="2", rollback="yes"))
    with pytest.raises(CatdogError, match="say it shorter"):
        promote(_config(tmp_path, to="2", because="x" * 501))


def test_a_champion_of_another_split_is_measured_on_what_it_has_not_learned(
    release, tmp_path, prepared
):
    version = release(0.2, learned=_digests(prepared)[:4])
    pictures = prepared.pictures("validation")
    side = Answers(np.zeros(len(pictures)), np.zeros(len(pictures), dtype=bool))
    held = compare_with_champion(version, side, pictures, tmp_path / "data")
    assert held.count == held.evidence.count == held.metrics["val_example_count"] == 26


def test_a_champion_whose_files_are_gone_is_not_comparable(release, tmp_path, prepared):
    version = release(0.2)
    pictures = prepared.pictures("validation")
    side = Answers(np.zeros(len(pictures)), np.zeros(len(pictures), dtype=bool))
    whole = compare_with_champion(version, side, pictures, tmp_path / "data")
    assert whole.metrics["val_example_count"] == len(pictures)
    model = versions.fetch(f"models:/pets/{version.version}") / "model.json"
    assert hashlib.sha256(model.read_bytes()).hexdigest() == version.tags["model_digest"]
    history.MlflowClient().set_model_version_tag("pets", "1", "model_digest", "0" * 64)
    told = compare_with_champion(versions.versions("pets")[0], side, pictures, tmp_path / "data")
    assert told.evidence.startswith("it can't be used any more (models:/pets/1 is not the model")
    assert told.metrics == {}


def test_sides_that_do_not_say_what_they_learned_are_not_compared():
    logits = np.ones(40)
    known = Answers(logits, np.zeros(40, dtype=bool))
    labels = np.repeat([0, 1], 20)
    assert "not known" in compare_fairly(labels, Answers(logits, None), known, seed=0)
    assert compare_fairly(labels, known, known, seed=0).count == 40
