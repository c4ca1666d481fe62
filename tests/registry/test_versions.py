from __future__ import annotations

import os
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.registry import history, register, versions
from catdog.registry.promotion import Candidate

PHOTOS = Candidate("abc", drawn=False, status="approved")


def _register(logged_model, *, proven=True):
    version = register.add(logged_model, "pets", PHOTOS, digest="", card="# A card")
    history.approve(version, proven=proven)
    if proven:
        history.promote_to(version, "of a test")
    return version


def test_a_version_carries_its_card_and_at_most_six_tags(logged_model):
    version = _register(logged_model)
    found = MlflowClient().get_model_version("pets", version.version)
    assert found.description.startswith("# A card")
    assert found.tags == PHOTOS.to_tags() | {"model_digest": ""}
    assert len(found.tags) < 6


def test_a_rejected_version_is_used_by_its_number_alone(logged_model):
    version = _register(logged_model, proven=False)
    with pytest.raises(CatdogError, match="does not name a model"):
        versions.fetch("models:/pets/Production")
    with pytest.raises(CatdogError, match="which did not answer as its training did"):
        versions.fetch("models:/pets/latest")
    assert versions.fetch(f"models:/pets/{version.version}").is_dir()  # whoever names it knows


def test_a_version_is_asked_for_once_where_the_answer_is_lost(logged_model, monkeypatch):
    asked = []

    def register_late(*_: object, **__: object) -> None:
        asked.append(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        raise MlflowException("not now")

    monkeypatch.setattr(mlflow, "register_model", register_late)
    with pytest.raises(MlflowException):
        register.add(logged_model, "pets", PHOTOS, digest="", card="# A card")
    assert asked == ["0"]


def test_a_uri_that_names_nothing_is_answered_with_what_exists(logged_model):
    with pytest.raises(CatdogError, match=r"is empty.* train one with: mlflow run"):
        versions.fetch("models:/pets/Production")
    _register(logged_model)
    with pytest.raises(CatdogError, match=r"Versions of 'pets': 1 \(Production\)"):
        versions.fetch("models:/pets/7")
    versions.MlflowClient().rename_registered_model("pets", "my pets (2)")
    with pytest.raises(CatdogError, match=r"--model-uri 'models:/my pets \(2\)/1'$"):
        versions.fetch("models:/my pets (2)/7")
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


def _remove(place: Path, _patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(place)


def _lock(place: Path, patch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path == place:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    patch.setattr(Path, "stat", refuse)


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (_remove, versions.FilesGoneError, "No such file or directory"),
        (_lock, CatdogError, "Permission denied"),
    ],
)
def test_a_version_whose_files_can_not_be_read_is_told_from_a_name_that_does_not_exist(
    logged_model, monkeypatch, spoil, kind, reason
):
    version = _register(logged_model)
    place = MlflowClient().get_model_version_download_uri("pets", version.version)
    spoil(Path(place), monkeypatch)
    with pytest.raises(
        CatdogError,
        match=rf"is version 1 in the registry at .* can't be read \(.*{reason}.*{place}",
    ) as raised:
        versions.fetch("models:/pets/Production")
    assert raised.type is kind


def test_reading_a_model_writes_nothing_beside_it(logged_model):
    _register(logged_model)
    place = versions.fetch("models:/pets/Production").parents[1]
    assert not (place / "registered_model_meta").exists()


def test_stages_versions_and_aliases_name_a_model(logged_model):
    _register(logged_model)
    for end in ("/Production", "/1", "/latest", "@production", "@champion"):
        assert (versions.fetch(f"models:/pets{end}") / "model.json").read_text() == "{}"
