from __future__ import annotations

import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.registry import history, versions
from catdog.registry.compare import Contest
from catdog.registry.promotion import NO_STAGE, PRODUCTION, Candidate, Decision
from tests.conftest import ROOT

PHOTOS = Candidate(0.98, "abc", drawn=False, status="approved")


def _register(logged_model, *, proven=True):
    version = versions.add(logged_model, "pets", PHOTOS, digest="", card="# A card")
    history.attest(version, proven=proven)
    decision = Decision(PRODUCTION if proven else NO_STAGE, "of a test")
    history.place(version, decision, Contest(None))
    return version


def test_a_version_carries_its_card_its_digest_and_how_good_it_is(logged_model):
    version = _register(logged_model)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.description.startswith("# A card")
    assert "model_digest" in found.tags
    assert found.tags["validation_status"] == "approved"
    assert Candidate.from_tags(found.tags) == PHOTOS


def test_a_version_that_does_not_answer_alike_is_rejected_even_where_there_is_no_other(
    logged_model,
):
    version = _register(logged_model, proven=False)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.current_stage == "None"
    assert found.tags["validation_status"] == "rejected"
    with pytest.raises(CatdogError, match="does not name a model"):
        versions.fetch("models:/pets/Production")
    with pytest.raises(CatdogError, match="which did not answer as its training did"):
        versions.fetch("models:/pets/latest")
    assert versions.fetch(f"models:/pets/{version.version}").is_dir()  # whoever names it knows


def test_the_version_that_a_run_has_registered_is_found(logged_model):
    version = _register(logged_model)
    assert versions.version_of_run("pets", version.run_id).version == version.version
    assert versions.version_of_run("pets", "0" * 32) is None
    assert versions.version_of_run("o'clock", version.run_id) is None


def test_a_uri_that_names_nothing_is_answered_with_what_exists(logged_model):
    with pytest.raises(CatdogError, match=r"is empty: train a model with: mlflow run"):
        versions.fetch("models:/pets/Production")
    _register(logged_model)
    with pytest.raises(CatdogError, match=r"Versions of 'pets': 1 \(Production @"):
        versions.fetch("models:/pets/7")
    with pytest.raises(CatdogError, match="does not name a model"):
        versions.fetch("runs:/0123456789abcdef/model")
    with pytest.raises(CatdogError, match="does not name a model"):
        versions.fetch("no/such/folder")


def test_a_model_that_was_changed_in_the_registry_is_not_used(logged_model):
    version = _register(logged_model)
    digest = versions.digest_of(versions.fetch("models:/pets/Production"))
    client = MlflowClient()
    client.set_model_version_tag("pets", version.version, "model_digest", digest)
    assert versions.fetch("models:/pets@production").is_dir()
    client.set_model_version_tag("pets", version.version, "model_digest", "0" * 64)
    with pytest.raises(CatdogError, match="is not the model that was registered"):
        versions.fetch("models:/pets/1")


@pytest.mark.parametrize("named", ["Production", "1", "latest", "@production", "@champion"])
def test_stages_versions_and_aliases_name_a_model(logged_model, named):
    _register(logged_model)
    uri = f"models:/pets{named}" if named.startswith("@") else f"models:/pets/{named}"
    assert (versions.fetch(uri) / "model.json").read_text() == "{}"


def test_finding_a_model_imports_no_statistics():
    heavy = "{'timm', 'sklearn', 'scipy.stats', 'matplotlib', 'gradio'}"
    code = f"import sys, catdog.registry.versions; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
