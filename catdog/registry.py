"""The only module that talks to the model registry: versions, stages, aliases, URIs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient

from catdog import CatdogError, tracking
from catdog.classifier import MODEL_FILE, saved_in

PRODUCTION, STAGING, NO_STAGE = "Production", "Staging", "None"
ALIASES = ("production", "champion")
DIGEST_TAG = "model_digest"


@dataclass(frozen=True)
class Candidate:
    """What decides whether a version may replace another."""

    best_val_accuracy: float
    validation_digest: str
    drawn: bool

    def to_tags(self) -> dict[str, str]:
        """The tags of a registered version that `from_tags` reads."""
        return {
            "best_val_accuracy": repr(self.best_val_accuracy),
            "validation_digest": self.validation_digest,
            "data": "drawn" if self.drawn else "photos",
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Candidate | None:
        """The candidate that a version's tags describe; None when they describe none."""
        try:
            return cls(
                best_val_accuracy=float(tags["best_val_accuracy"]),
                validation_digest=tags["validation_digest"],
                drawn=tags["data"] == "drawn",
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Decision:
    """The stage for a new version, and why, in one clause."""

    stage: str
    reason: str


def decide(challenger: Candidate, champion: Candidate | None, *, empty: bool = False) -> Decision:
    """Decide where a new version belongs.

    Args:
        challenger: the new version.
        champion: the version in Production; None when it is not known how good it is.
        empty: whether Production is empty.
    """
    if empty:
        return Decision(PRODUCTION, "no version was in Production")
    if champion is None:
        return Decision(STAGING, "the version in Production does not say how good it is")
    if challenger.drawn and not champion.drawn:
        return Decision(STAGING, "drawn pictures never replace a model trained on photos")
    if champion.drawn and not challenger.drawn:
        return Decision(PRODUCTION, "the version in Production was trained on drawn pictures")
    if challenger.validation_digest != champion.validation_digest:
        return Decision(
            STAGING, "the version in Production was validated on other pictures: not comparable"
        )
    ours, theirs = challenger.best_val_accuracy, champion.best_val_accuracy
    if ours >= theirs:
        return Decision(PRODUCTION, f"validation accuracy {ours:.4f} is at least {theirs:.4f}")
    return Decision(STAGING, f"validation accuracy {ours:.4f} is below {theirs:.4f} in Production")


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
        tags = candidate.to_tags() | {DIGEST_TAG: digest}
        version = mlflow.register_model(model_uri, name, tags=tags)
        MlflowClient().update_model_version(name, version.version, description=card)
    except MlflowException as error:
        raise _refused(name, model_uri, error) from error
    return version


def place(version: ModelVersion, candidate: Candidate, *, proven: bool) -> Decision:
    """Put a new version where it belongs; one that is not `proven` to answer alike gets no stage.

    Raises:
        CatdogError: the registry refused.
    """
    client = MlflowClient()
    name = version.name
    try:
        if not proven:
            decision = Decision(NO_STAGE, "a fresh process does not answer as the training did")
        else:
            current = _in_stage(client, name, PRODUCTION)
            champion = Candidate.from_tags(current.tags) if current else None
            decision = decide(candidate, champion, empty=current is None)
            move(client, version, decision.stage)
        status = "approved" if proven else "rejected"
        for key, value in (("validation_status", status), ("stage_reason", decision.reason)):
            client.set_model_version_tag(name, version.version, key, value)
    except MlflowException as error:
        raise _refused(name, f"models:/{name}/{version.version}", error) from error
    return decision


def champion(name: str) -> ModelVersion | None:
    """The version of `name` that is in Production; None when none is."""
    return _in_stage(MlflowClient(), name, PRODUCTION)


def move(client: MlflowClient, version: ModelVersion, stage: str) -> None:
    """Put a version into a stage; the aliases `production` and `champion` follow Production."""
    with warnings.catch_warnings():
        # MLflow prefers aliases since 2.9, but models:/catdog/Production names a stage.
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(
            version.name, version.version, stage, archive_existing_versions=stage == PRODUCTION
        )
    if stage == PRODUCTION:
        for alias in ALIASES:
            client.set_registered_model_alias(version.name, alias, version.version)


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
    tracking.connect()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            version = _version_of(model_uri)
            folder = saved_in(Path(mlflow.artifacts.download_artifacts(model_uri)))
    except (MlflowException, OSError) as error:
        raise CatdogError(f"{model_uri} does not name a model. {_advice(model_uri)}") from error
    if (
        version is not None
        and _is_rejected(version)
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
        return hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise CatdogError(
            f"{folder} does not hold a whole catdog model: its {MODEL_FILE} can't be read "
            f"({error.strerror or error}). Name another version."
        ) from error


def exact(model_uri: str) -> str:
    """The URI of the version that a stage, an alias or `latest` means now; others stay as is."""
    if not model_uri.startswith("models:/"):
        return model_uri
    tracking.connect()
    try:
        version = _version_of(model_uri)
    except MlflowException:
        return model_uri  # fetching it says what is wrong, and what to type instead
    return f"models:/{version.name}/{version.version}" if version else model_uri


def _version_of(model_uri: str) -> ModelVersion | None:
    """The registered version that a `models:/` URI stands for; None for every other URI."""
    if not model_uri.startswith("models:/"):
        return None
    client = MlflowClient()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MLflow prefers aliases to stages
        named = get_model_name_and_version(client, model_uri)
    # The URI of a logged model, which is no version of anything, names itself alone.
    return client.get_model_version(*named) if len(named) == 2 else None


def _in_stage(client: MlflowClient, name: str, stage: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}'")
    staged = [version for version in versions if version.current_stage == stage]
    return max(staged, key=lambda version: int(version.version), default=None)


def _advice(model_uri: str) -> str:
    """What exists, and the command that would help."""
    name = "catdog"
    if model_uri.startswith("models:/"):
        name = model_uri.removeprefix("models:/").split("/")[0].split("@")[0]
    try:
        models = MlflowClient().search_registered_models()
    except MlflowException as error:
        return f"The registry at {mlflow.get_tracking_uri()} can't be asked: {error.message}"
    found = {model.name: model for model in models}
    where = f"The registry at {mlflow.get_tracking_uri()}"
    if name in found:
        return _listed(found[name])
    if not found:
        return f"{where} is empty: train a model with: mlflow run . -P epochs=10"
    names = ", ".join(sorted(found))
    return f"{where} holds no version of {name!r}, but of: {names}. Name one of these."


def _listed(model: RegisteredModel) -> str:
    versions = MlflowClient().search_model_versions(f"name = '{model.name}'")
    versions = sorted(versions, key=lambda version: int(version.version))
    if not versions:
        return f"{model.name!r} has no version: train one with: mlflow run . -P epochs=10"
    told = ", ".join(_told(version, model.aliases) for version in versions)
    usable = [version for version in versions if not _is_rejected(version)]
    if not usable:
        return f"Versions of {model.name!r}: {told}. None of them answers as its training did."
    return (
        f"Versions of {model.name!r}: {told}. Try: python scripts/predict.py --model-uri "
        f"models:/{model.name}/{usable[-1].version}"
    )


def _told(version: ModelVersion, aliases: Mapping[str, str]) -> str:
    number = str(version.version)
    named = [f"@{alias}" for alias, other in aliases.items() if str(other) == number]
    state = ["rejected"] if _is_rejected(version) else []
    return f"{number} ({' '.join([version.current_stage, *named, *state])})"


def _is_rejected(version: ModelVersion) -> bool:
    return version.tags.get("validation_status") == "rejected"


def _refused(name: str, model_uri: str, error: MlflowException) -> CatdogError:
    return CatdogError(
        f"the model registry refused to register {name}: {error.message}. The trained model "
        f"is kept in the run as {model_uri}."
    )
