"""What the model registry holds: versions, and what a URI stands for.

Of MLflow's registry this module and `catdog.registry.history` know, and no other.
"""

from __future__ import annotations

import contextlib
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
from mlflow.entities import model_registry
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.files import sha256_of
from catdog.inference.classifier import MODEL_FILE, saved_in
from catdog.registry.promotion import PRODUCTION, Candidate
from catdog.tracking import store
from catdog.tracking.store import ONCE, limits, without_password

ModelVersion = model_registry.ModelVersion
"""A version as MLflow gives it, for rooms that do not import MLflow."""
DEFAULT_NAME = "catdog"
"""Of the registered model, in every command that names none."""
ALIASES = ("production", "champion")
"""What the version in Production is called beside its stage."""
DIGEST_TAG = "model_digest"
PAUSES = (1.0, 4.0)
"""Seconds after which a server that gave no answer is asked whether it made a version."""


def add(model_uri: str, name: str, candidate: Candidate, *, digest: str, card: str) -> ModelVersion:
    """Register a logged model as a new version, which has no stage yet.

    Args:
        model_uri: of the logged model.
        name: in the registry.
        candidate: how good it is.
        digest: of the saved classifier; `fetch` compares it.
        card: the model card, in Markdown, which becomes the version's description.

    Raises:
        CatdogError: the registry refused.
    """
    try:
        version = _create(model_uri, name, candidate.to_tags() | {DIGEST_TAG: digest})
    except MlflowException as error:
        raise refused(name, model_uri, error) from error
    describe(version, card)
    return version


def _create(model_uri: str, name: str, tags: dict[str, str]) -> ModelVersion:
    """Create a version once: a server that answers too late may have made it already."""
    for pause in (*PAUSES, None):
        try:
            with limits(ONCE):
                return mlflow.register_model(model_uri, name, tags=tags)
        except MlflowException as error:
            if pause is None or error.get_http_status_code() < 500:
                raise
            time.sleep(pause)
            if made := _made_of(model_uri, name):
                return made
    raise AssertionError("the last try returns or raises")


def _made_of(model_uri: str, name: str) -> ModelVersion | None:
    mine = [one for one in versions(name) if model_uri in (one.source, f"models:/{one.model_id}")]
    return mine[-1] if mine else None


def describe(version: ModelVersion, card: str) -> None:
    """Make the model card the version's description.

    Raises:
        CatdogError: the registry refused.
    """
    try:
        MlflowClient().update_model_version(version.name, version.version, description=card)
    except MlflowException as error:
        raise refused(version.name, _numbered(version), error) from error


def version_of_run(name: str, run_id: str) -> ModelVersion | None:
    """The newest version of `name` that a run has registered; None when it has not.

    Raises:
        CatdogError: the registry refused.
    """
    try:
        mine = [version for version in versions(name) if version.run_id == run_id]
    except MlflowException as error:
        raise refused(name, f"runs:/{run_id}", error) from error
    return mine[-1] if mine else None


def fetch(model_uri: str) -> Path:
    """The folder of the saved classifier that a model URI stands for.

    Args:
        model_uri: of the registry (`models:/catdog/Production`), of a run (`runs:/<id>/model`),
            or a folder.

    Raises:
        CatdogError: it stands for none; the text lists the versions that exist.
    """
    if Path(model_uri).is_dir():
        return saved_in(Path(model_uri))
    store.connect()
    try:
        with stages_are_fine():
            version = version_of(model_uri)
            # By its number: a stage may mean another version by now.
            exactly = _numbered(version) if version else model_uri
            folder = saved_in(Path(mlflow.artifacts.download_artifacts(exactly)))
    except (MlflowException, OSError) as error:
        raise CatdogError(f"{model_uri} does not name a model. {_advice(model_uri)}") from error
    if (
        version is not None
        and is_rejected(version)
        and not model_uri.endswith(f"/{version.version}")
    ):
        raise CatdogError(
            f"{model_uri} is version {version.version}, which did not answer as its training did. "
            f"{_advice(model_uri)}"
        )
    registered = version.tags.get(DIGEST_TAG) if version else None
    if registered and registered != digest_of(folder):
        raise CatdogError(
            f"{model_uri} is not the model that was registered: the digest of its {MODEL_FILE} "
            "differs. Somebody has changed its files; name another version."
        )
    return folder


def digest_of(folder: Path) -> str:
    """The digest of a saved classifier's description, which holds those of its other files."""
    try:
        return sha256_of(folder / MODEL_FILE)
    except OSError as error:
        raise CatdogError(
            f"{folder} does not hold a whole catdog model: its {MODEL_FILE} can't be read "
            f"({error.strerror or error}). Name another version."
        ) from error


def exact(model_uri: str) -> str:
    """The URI of the version that a stage, an alias or `latest` means now; others stay as is."""
    if not model_uri.startswith("models:/"):
        return model_uri
    store.connect()
    try:
        version = version_of(model_uri)
    except MlflowException:
        return model_uri  # fetching it says what is wrong, and what to type instead
    return _numbered(version) if version else model_uri


def version_of(model_uri: str) -> ModelVersion | None:
    """The registered version that a `models:/` URI stands for; None for every other URI.

    Raises:
        MlflowException: it stands for none.
    """
    if not model_uri.startswith("models:/"):
        return None
    client = MlflowClient()
    name, _, stage = model_uri.removeprefix("models:/").partition("/")
    if stage == PRODUCTION and (found := champion(name)):
        return found
    with stages_are_fine():
        named = get_model_name_and_version(client, model_uri)
    # The URI of a logged model, which is no version of anything, names itself alone.
    return client.get_model_version(*named) if len(named) == 2 else None


def champion(name: str) -> ModelVersion | None:
    """The version of `name` that serves: the one in Production; None when none is.

    Where MLflow has no stages any more, it is the one with the alias.
    """
    found = versions(name)
    staged = [version for version in found if stage_of(version) == PRODUCTION]
    if staged:
        return staged[-1]
    if any(map(stage_of, found)):
        return None
    return next(filter(None, (aliased(name, alias) for alias in ALIASES)), None)


def versions(name: str) -> list[ModelVersion]:
    """All versions of `name`, the oldest first; none where nothing is called so."""
    found = MlflowClient().search_model_versions(f"name = {_quoted(name)}")
    return sorted(found, key=lambda version: int(version.version))


@contextlib.contextmanager
def stages_are_fine() -> Iterator[None]:
    """MLflow prefers aliases to stages since 2.9, but models:/catdog/Production names one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def numbered(name: str, number: str) -> ModelVersion | None:
    """The version of `name` with that number; None when there is none (any more)."""
    return next((one for one in versions(name) if str(one.version) == number), None)


def stage_of(version: ModelVersion) -> str:
    """The stage of a version; "" where MLflow has no stages any more."""
    return getattr(version, "current_stage", None) or ""


def aliased(name: str, alias: str) -> ModelVersion | None:
    """The version of `name` that has an alias; None when none has."""
    try:
        return MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def is_rejected(version: ModelVersion) -> bool:
    """Whether a version did not answer as its training did."""
    return version.tags.get("validation_status") == "rejected"


def training(name: str) -> str:
    """The command that trains a version of `name`."""
    named = "" if name == DEFAULT_NAME else shlex.quote(f"registered_model_name={name}")
    return f"mlflow run . -P epochs=10{f' -P {named}' if named else ''}"


def promoting(name: str) -> str:
    """The command that promotes a version of `name`, without its options."""
    named = "" if name == DEFAULT_NAME else f" --name {shlex.quote(name)}"
    return f"python scripts/promote.py{named}"


def _advice(model_uri: str) -> str:
    """What exists, and the command that would help."""
    name = DEFAULT_NAME
    if model_uri.startswith("models:/"):
        name = model_uri.removeprefix("models:/").split("/")[0].split("@")[0]
    try:
        models = MlflowClient().search_registered_models()
    except MlflowException as error:
        return f"The registry at {store.shown_uri()} can't be asked: {_without_password(error)}"
    found = {model.name: model for model in models}
    where = f"The registry at {store.shown_uri()}"
    if name in found:
        return _listed(found[name])
    if not found:
        return f"{where} is empty: train a model with: {training(name)}"
    names = ", ".join(sorted(found))
    return f"{where} holds no version of {name!r}, but of: {names}. Name one of these."


def _listed(model: RegisteredModel) -> str:
    found = versions(model.name)
    if not found:
        return f"{model.name!r} has no version: train one with: {training(model.name)}"
    told = ", ".join(_told(version, model.aliases) for version in found)
    usable = [version for version in found if not is_rejected(version)]
    if not usable:
        return f"Versions of {model.name!r}: {told}. None of them answers as its training did."
    return (
        f"Versions of {model.name!r}: {told}. Try: python scripts/predict.py --model-uri "
        f"models:/{model.name}/{usable[-1].version}"
    )


def _numbered(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


def _quoted(name: str) -> str:
    """A name in MLflow's filter language, which knows no escapes."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _told(version: ModelVersion, aliases: Mapping[str, str]) -> str:
    number = str(version.version)
    named = [f"@{alias}" for alias, other in aliases.items() if str(other) == number]
    state = ["rejected"] if is_rejected(version) else []
    return f"{number} ({' '.join([stage_of(version), *named, *state]).strip()})"


def _without_password(error: MlflowException) -> str:
    return without_password(error.message)


def refused(name: str, model_uri: str, error: MlflowException) -> CatdogError:
    """What to say when the registry does not take a version."""
    return CatdogError(
        f"the model registry refused to register {name}: {_without_password(error)}. The trained "
        f"model is kept in the run as {model_uri}."
    )
