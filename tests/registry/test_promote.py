"""Two real versions of a real registry, compared on real tiny photos."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError, cli
from catdog.config import PromoteConfig
from catdog.inference.classifier import photo_keys
from catdog.registry import history, register, versions
from catdog.registry.compare import Answers, compare_fairly, compare_with_champion
from catdog.registry.promote import promote
from catdog.registry.promotion import GONE, PRODUCTION, STAGING, Candidate
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
        candidate = replace(Candidate("?", drawn=False, status="approved"), **fields)
        with mlflow.start_run():
            logged = mlflow.pyfunc.log_model(
                name="model",
                loader_module="catdog.inference.classifier",
                data_path=str(folder),
                pip_requirements=["mlflow"],
            )
        return register.add(logged.model_uri, "pets", candidate, digest=digest, card="# A card")

    return release


def _config(tmp_path, **fields) -> PromoteConfig:
    return PromoteConfig(**{"name": "pets", "data_dir": str(tmp_path / "data")} | fields)


def _unlearned(pictures) -> Answers:
    return Answers(np.zeros(len(pictures)), np.zeros(len(pictures), dtype=bool))


def test_a_surely_better_version_takes_the_place_and_a_worse_one_does_not(release, tmp_path):
    release(0.2), release(1.0), release(-1.0)
    assert promote(_config(tmp_path, version="1"))[1].stage == PRODUCTION
    assert promote(_config(tmp_path, version="2", dry_run="yes"))[1].stage == PRODUCTION
    assert str(versions.champion("pets").version) == "1"
    _, better = promote(_config(tmp_path, version="2"))
    assert better.summary.startswith("surely better than version 1: 0 of 30 photos")
    version, worse = promote(_config(tmp_path))  # the newest
    assert (version.version, worse.stage) == (3, STAGING)
    assert worse.summary.startswith("surely worse than version 2: 0 of 30 photos put")
    assert str(versions.champion("pets").version) == "2"
    assert len(history.history("pets")) == 2


def test_photos_that_one_of_the_two_has_learned_are_no_evidence():
    logits, labels = np.ones(40), np.repeat([0, 1], 20)
    first_four, last_five = np.arange(40) < 4, np.arange(40) >= 35
    champion, challenger = Answers(logits, first_four), Answers(logits, last_five)
    assert compare_fairly(labels, champion, challenger, seed=0).count == 31
    assert "not known" in compare_fairly(labels, Answers(logits, None), challenger, seed=0)
    taught = Answers(logits, np.arange(40) < 15)
    assert compare_fairly(labels, taught, challenger, seed=0) == (
        "of 40 photos only 5 and 15 of the two kinds were learned by neither"
    )


def test_an_older_version_is_comparable_where_it_was_validated_on_the_same_photos(
    release, tmp_path, prepared
):
    release(0.2, knows=False, validation_digest=prepared.validation_digest)
    release(0.2, knows=False, validation_digest="of other photos")
    release(1.0)
    promote(_config(tmp_path, version="2"))
    _, decision = promote(_config(tmp_path))
    assert "which photos it learned from is not known" in decision.summary
    promote(_config(tmp_path, to="1"))
    assert promote(_config(tmp_path))[1].stage == PRODUCTION


def test_photos_of_a_folder_are_compared_on_and_unreadable_ones_told(
    said, release, tmp_path, draw_folder
):
    folder = draw_folder(tmp_path / "new", 12, start=500)
    (folder / "cat" / "broken.jpg").write_bytes(b"no picture")
    release(0.2), release(1.0)
    promote(_config(tmp_path, version="1"))
    _, decision = promote(_config(tmp_path, data=str(folder)))
    assert "0 of 24 photos put right" in decision.summary
    assert [line.split(": ")[0] for line in said if "left out" in line] == [
        f"left out {folder / 'cat' / 'broken.jpg'}"
    ]


def test_the_script_goes_back_and_forth_and_tells_the_history(release, tmp_path, capsys, said):
    release(0.2), release(1.0)
    for flags, line in (
        (["--version", "1"], "version 1 is in Production: no version was in"),
        (["--to", "2", "--because", "Ada asked"], "version 2 is in Production: Ada asked."),
        (["--dry-run", "--rollback"], "version 1 would go to Production: rolled back."),
        (["--rollback"], "version 1 is in Production: rolled back."),
        ([], "version 1 is in Production: it is in Production already."),
        (["--history"], " Ada asked\n"),
    ):
        arguments = ["--name", "pets", "--data_dir", str(tmp_path), *flags]
        assert cli.run(script.main, PromoteConfig, arguments) == 0
        out = capsys.readouterr().out
        assert line in out
    assert [row.split()[2] for row in out.splitlines()[1:]] == ["1", "2", "1"]
    assert said[-1] == "In Production now: 1"


def test_a_version_whose_proof_is_missing_waits_for_its_run(release, tmp_path):
    with pytest.raises(CatdogError, match="no version of pets to promote"):
        promote(_config(tmp_path))
    release(0.2), release(1.0, status="pending")
    for _ in range(2):  # not the newest
        assert str(promote(_config(tmp_path))[0].version) == "1"
    run_id = versions.numbered("pets", "2").run_id
    command = f"mlflow run . --env-manager=local -P resume={run_id} -P data_dir={tmp_path / 'data'}"
    with pytest.raises(CatdogError, match=re.escape(f"Let that go on: {command}")):
        promote(_config(tmp_path, version="2"))
    with pytest.raises(CatdogError, match=r"has no version '7'. It has: 1, 2\."):
        promote(_config(tmp_path, to="7"))


def test_a_version_to_name_and_one_to_go_back_to_are_refused(tracking_store, tmp_path):
    with pytest.raises(CatdogError, match="give one of them"):
        promote(_config(tmp_path, to="2", rollback="yes"))


def test_a_champion_is_measured_on_what_it_has_not_learned_while_its_files_are_there(
    release, tmp_path, prepared
):
    pictures = prepared.pictures("validation")
    version = release(0.2, learned=[picture.sha256 for picture in pictures[:4]])
    found = compare_with_champion(version, _unlearned(pictures), pictures, tmp_path / "data")
    assert found.count == found.evidence.count == found.metrics["val_example_count"] == 26
    MlflowClient().set_model_version_tag("pets", "1", "model_digest", "0" * 64)
    changed = versions.numbered("pets", "1")
    found = compare_with_champion(changed, _unlearned(pictures), pictures, tmp_path / "data")
    assert found.evidence.startswith("it can't be used any more (models:/pets/1 is not the model")
    assert found.metrics == {}
    shutil.rmtree(MlflowClient().get_model_version_download_uri("pets", "1"))
    found = compare_with_champion(changed, _unlearned(pictures), pictures, tmp_path / "data")
    assert found.evidence == GONE
