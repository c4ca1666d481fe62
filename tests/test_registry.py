from __future__ import annotations

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError, registry, succession
from catdog.contest import Contest
from catdog.promotion import NO_STAGE, PRODUCTION, Candidate, Decision

PHOTOS = Candidate(0.98, "abc", drawn=False, status="approved")


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


def _register(store, *, proven=True):
    version = registry.add(store, "pets", PHOTOS, digest="", card="# A card")
    succession.attest(version, proven=proven)
    decision = Decision(PRODUCTION if proven else NO_STAGE, "of a test")
    succession.place(version, decision, Contest(None))
    return version


def test_a_version_carries_its_card_its_digest_and_how_good_it_is(store):
    version = _register(store)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.description.startswith("# A card")
    assert "model_digest" in found.tags
    assert found.tags["validation_status"] == "approved"
    assert Candidate.from_tags(found.tags) == PHOTOS


def test_a_version_that_does_not_answer_alike_is_rejected_even_where_there_is_no_other(store):
    version = _register(store, proven=False)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.current_stage == "None"
    assert found.tags["validation_status"] == "rejected"
    with pytest.raises(CatdogError, match="does not name a model"):
        registry.fetch("models:/pets/Production")
    with pytest.raises(CatdogError, match="which did not answer as its training did"):
        registry.fetch("models:/pets/latest")
    assert registry.fetch(f"models:/pets/{version.version}").is_dir()  # whoever names it knows


def test_the_version_that_a_run_has_registered_is_found(store):
    version = _register(store)
    assert registry.version_of_run("pets", version.run_id).version == version.version
    assert registry.version_of_run("pets", "0" * 32) is None
    assert registry.version_of_run("o'clock", version.run_id) is None


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
    version = _register(store)
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
