from __future__ import annotations

import dataclasses

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from catdog import CatdogError, registry
from catdog.registry import PRODUCTION, STAGING, Candidate, decide

PHOTOS = Candidate(0.98, "abc", drawn=False)
DRAWN = Candidate(0.99, "def", drawn=True)


def test_the_first_version_becomes_production():
    assert decide(PHOTOS, None, empty=True).stage == PRODUCTION


@pytest.mark.parametrize(
    ("accuracy", "stage"), [(0.99, PRODUCTION), (0.98, PRODUCTION), (0.97, STAGING)]
)
def test_on_the_same_pictures_the_better_or_equal_version_wins(accuracy, stage):
    decision = decide(dataclasses.replace(PHOTOS, best_val_accuracy=accuracy), PHOTOS)
    assert decision.stage == stage
    assert f"{accuracy:.4f}" in decision.reason
    assert "0.9800" in decision.reason


def test_versions_validated_on_other_pictures_are_not_comparable():
    decision = decide(
        dataclasses.replace(PHOTOS, best_val_accuracy=1.0), Candidate(0.5, "x", False)
    )
    assert decision.stage == STAGING
    assert "not comparable" in decision.reason


def test_a_version_that_does_not_say_how_good_it_is_stays():
    assert decide(PHOTOS, None).stage == STAGING


candidates = st.builds(Candidate, st.floats(0, 1), st.sampled_from(["a", "b"]), drawn=st.booleans())


@given(challenger=candidates, champion=candidates)
def test_drawn_pictures_never_replace_photos(challenger, champion):
    if challenger.drawn and not champion.drawn:
        assert decide(challenger, champion).stage == STAGING


@given(challenger=candidates, champion=candidates)
def test_photos_always_replace_drawn_pictures(challenger, champion):
    if champion.drawn and not challenger.drawn:
        assert decide(challenger, champion).stage == PRODUCTION


@given(candidate=candidates)
def test_the_tags_of_a_version_hold_all_that_decides(candidate):
    assert Candidate.from_tags(candidate.to_tags()) == candidate


def test_foreign_tags_describe_no_candidate():
    assert Candidate.from_tags({"owner": "somebody"}) is None
    assert Candidate.from_tags(PHOTOS.to_tags() | {"best_val_accuracy": "good"}) is None


@pytest.fixture
def store(tmp_path, tracking_store):
    """A real SQLite store and registry, with one logged model."""
    mlflow.set_tracking_uri(tracking_store)
    saved = tmp_path / "classifier"
    saved.mkdir()
    (saved / "model.json").write_text("{}")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="catdog.classifier",
            data_path=str(saved),
            pip_requirements=["mlflow"],
        )
    return info.model_uri


def _register(store, candidate=PHOTOS, *, proven=True):
    version = registry.add(store, "pets", candidate, digest="", card="# A card")
    return version, registry.place(version, candidate, proven=proven)


def test_a_version_carries_its_card_its_digest_and_how_good_it_is(store):
    version, _ = _register(store)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.description == "# A card"
    assert "model_digest" in found.tags
    assert found.tags["validation_status"] == "approved"
    assert Candidate.from_tags(found.tags) == PHOTOS


def test_a_version_that_does_not_answer_alike_is_rejected_even_where_there_is_no_other(store):
    version, decision = _register(store, proven=False)
    found = MlflowClient().get_model_version("pets", version.version)
    assert (found.current_stage, decision.stage) == ("None", "None")
    assert found.tags["validation_status"] == "rejected"
    with pytest.raises(CatdogError, match="does not name a model"):
        registry.fetch("models:/pets/Production")
    with pytest.raises(CatdogError, match="which did not answer as its training did"):
        registry.fetch("models:/pets/latest")
    assert registry.fetch(f"models:/pets/{version.version}").is_dir()  # whoever names it knows


def test_the_version_that_a_run_has_registered_is_found(store):
    version, _ = _register(store)
    assert registry.version_of_run("pets", version.run_id).version == version.version
    assert registry.version_of_run("pets", "0" * 32) is None
    assert registry.version_of_run("o'clock", version.run_id) is None


def test_stage_and_alias_of_production_move_together(store):
    client = MlflowClient()
    first, _ = _register(store)
    better = dataclasses.replace(PHOTOS, best_val_accuracy=0.99)
    second, decision = _register(store, better)
    worse, refused = _register(store)
    stages = {
        version.version: version.current_stage
        for version in client.search_model_versions("name = 'pets'")
    }
    assert (decision.stage, refused.stage) == (PRODUCTION, STAGING)
    assert stages == {first.version: "Archived", second.version: PRODUCTION, worse.version: STAGING}
    for alias in ("production", "champion"):
        assert client.get_model_version_by_alias("pets", alias).version == second.version
    tags = client.get_model_version("pets", worse.version).tags
    assert tags["stage_reason"] == refused.reason


def test_a_uri_that_names_nothing_is_answered_with_what_exists(store):
    with pytest.raises(CatdogError, match=r"is empty: train a model with: mlflow run"):
        registry.fetch("models:/pets/Production")
    _register(store)
    with pytest.raises(CatdogError, match=r"Versions of 'pets': 1 \(Production @"):
        registry.fetch("models:/pets/7")
    with pytest.raises(CatdogError, match="does not name a model"):
        registry.fetch("runs:/0123456789abcdef/model")
    with pytest.raises(CatdogError, match="does not name a model"):
        registry.fetch("no/such/folder")


def test_a_model_that_was_changed_in_the_registry_is_not_used(store):
    version, _ = _register(store)
    digest = registry.digest_of(registry.fetch("models:/pets/Production"))
    client = MlflowClient()
    client.set_model_version_tag("pets", version.version, "model_digest", digest)
    assert registry.fetch("models:/pets@production").is_dir()
    client.set_model_version_tag("pets", version.version, "model_digest", "0" * 64)
    with pytest.raises(CatdogError, match="is not the model that was registered"):
        registry.fetch("models:/pets/1")


@pytest.mark.parametrize("named", ["Production", "1", "latest", "@production", "@champion"])
def test_stages_versions_and_aliases_name_a_model(store, named):
    _register(store)
    uri = f"models:/pets{named}" if named.startswith("@") else f"models:/pets/{named}"
    assert (registry.fetch(uri) / "model.json").read_text() == "{}"
