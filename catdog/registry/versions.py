"""What the model registry holds: versions, and what a URI stands for."""

from __future__ import annotations

import contextlib
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.entities import model_registry
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.files import sha256_of
from catdog.inference.classifier import MODEL_FILE, saved_in
from catdog.registry.promotion import PRODUCTION, STATUS_TAG
from catdog.tracking import store
from catdog.tracking.store import first_line, without_password

ModelVersion = model_registry.ModelVersion
"""A version as MLflow gives it, for rooms that do not import MLflow."""
DEFAULT_NAME = "catdog"
"""Of the registered model, in every command that names none."""
ALIASES = ("production", "champion")
"""What the version in Production is called beside its stage."""
DIGEST_TAG = "model_digest"


class FilesGoneError(CatdogError):
    """The registry knows a version whose files are no more."""


def describe(version: ModelVersion, text: str) -> None:
    """Make a text in Markdown the version's description."""
    MlflowClient().update_model_version(version.name, version.version, description=text)


def fetch(model_uri: str) -> Path:
    """The folder of the saved classifier that a model URI stands for.

    Args:
        model_uri: of the registry (`models:/catdog/Production`), of a run (`runs:/<id>/model`),
            or a folder.

    Raises:
        FilesGoneError: the registry has it, and its files are gone.
        CatdogError: it stands for none; the text lists the versions that exist.
    """
    if Path(model_uri).is_dir():
        return saved_in(Path(model_uri))
    store.connect()
    try:
        version = version_of(model_uri)
    except MlflowException as error:
        raise CatdogError(f"{model_uri} does not name a model. {_advice(model_uri)}") from error
    folder = saved_in(_files_of(version, model_uri))
    if version is None:
        return folder
    if is_rejected(version) and not model_uri.endswith(f"/{version.version}"):
        raise CatdogError(
            f"{model_uri} is version {version.version}, which did not answer as its training did. "
            f"{_advice(model_uri)}"
        )
    if version.tags.get(DIGEST_TAG) not in (None, "", digest_of(folder)):
        raise CatdogError(
            f"{model_uri} is not the model that was registered: the digest of its {MODEL_FILE} "
            "differs. Somebody has changed its files; name another version."
        )
    return folder


def _files_of(version: ModelVersion | None, model_uri: str) -> Path:
    """Where the files of a version are on this disk, or of a URI that names none."""
    try:
        place = model_uri
        if version is not None:  # by its name, MLflow would write into a folder that may be locked
            place = MlflowClient().get_model_version_download_uri(version.name, version.version)
            if place.startswith("/"):
                Path(place).stat()  # says why not, which MLflow does not
        return Path(mlflow.artifacts.download_artifacts(place))
    except (MlflowException, OSError) as error:
        if version is None:
            raise CatdogError(f"{model_uri} does not name a model. {_advice(model_uri)}") from error
        gone = isinstance(error, FileNotFoundError)
        raise (FilesGoneError if gone else CatdogError)(
            f"{model_uri} is version {version.version} in the registry at {store.shown_uri()}, but "
            f"its files can't be read ({first_line(error)}): bring them back, or train another "
            f"with: {training(version.name)}"
        ) from error


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
    return uri_of(version) if version else model_uri


def version_of(model_uri: str) -> ModelVersion | None:
    """The registered version that a `models:/` URI stands for; None for every other URI.

    Raises:
        MlflowException: it stands for none.
    """
    if not model_uri.startswith("models:/"):
        return None
    client = MlflowClient()
    with stages_are_fine():
        found = get_model_name_and_version(client, model_uri)
    # The URI of a logged model, which is no version of anything, names itself alone.
    return client.get_model_version(*found) if len(found) == 2 else None


def champion(name: str) -> ModelVersion | None:
    """The version of `name` that serves: the one in Production; None when none is."""
    staged = [version for version in versions(name) if version.current_stage == PRODUCTION]
    return staged[-1] if staged else None


def versions(name: str) -> list[ModelVersion]:
    """All versions of `name`, the oldest first; none where nothing is called so."""
    # MLflow's filter language knows no escapes.
    quoted = f'"{name}"' if "'" in name else f"'{name}'"
    found = MlflowClient().search_model_versions(f"name = {quoted}")
    return sorted(found, key=lambda version: int(version.version))


def numbered(name: str, number: str) -> ModelVersion | None:
    """The version of `name` with that number; None when there is none (any more)."""
    return next((one for one in versions(name) if number_of(one) == number), None)


def number_of(version: ModelVersion | None) -> str:
    """The number of a version, whose type differs between stores; "" for none."""
    return str(version.version) if version is not None else ""


def is_same(version: ModelVersion | None, other: ModelVersion | None) -> bool:
    """Whether two of a registered model are the same version, or both are none."""
    return number_of(version) == number_of(other)


def uri_of(version: ModelVersion) -> str:
    """The URI that names this version, whoever serves."""
    return f"models:/{version.name}/{version.version}"


def is_rejected(version: ModelVersion) -> bool:
    """Whether a version did not answer as its training did."""
    return version.tags.get(STATUS_TAG) == "rejected"


def training(name: str) -> str:
    """The command that trains a version of `name`."""
    option = "" if name == DEFAULT_NAME else f" -P registered_model_name={shlex.quote(name)}"
    return f"mlflow run . -P epochs=10{option}"


def promoting(name: str) -> str:
    """The command that promotes a version of `name`, without its options."""
    option = "" if name == DEFAULT_NAME else f" --name {shlex.quote(name)}"
    return f"python scripts/promote.py{option}"


@contextlib.contextmanager
def stages_are_fine() -> Iterator[None]:
    """MLflow prefers aliases to stages since 2.9, but models:/catdog/Production names one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _advice(model_uri: str) -> str:
    """What exists, and the command that would help."""
    where = f"The registry at {store.shown_uri()}"
    name = re.split("[/@]", model_uri.removeprefix("models:/"))[0]
    name = name if model_uri.startswith("models:/") else DEFAULT_NAME
    try:
        found = versions(name)
        known = [model.name for model in MlflowClient().search_registered_models()]
    except MlflowException as error:
        return f"{where} can't be asked: {without_password(error.message)}"
    usable = [version for version in found if not is_rejected(version)]
    if not usable:
        held = f"holds versions of: {', '.join(sorted(known))}" if known else "is empty"
        return f"{where} {held}. Name one that can be used, or train one with: {training(name)}"
    lines = ", ".join(map(_line, found))
    command = f"python scripts/predict.py --model-uri {shlex.quote(uri_of(usable[-1]))}"
    return f"Versions of {name!r}: {lines}. Try: {command}"


def _line(version: ModelVersion) -> str:
    state = "rejected" if is_rejected(version) else version.current_stage
    return f"{version.version} ({state})"
