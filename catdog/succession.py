"""Who serves, who served before, and why: stages, aliases and the history of promotions.

The stage Production and the aliases `champion` and `production` move together, and the former
champion becomes `previous`. Each move is written down as a tag of the registered model.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError, registry
from catdog.contest import Contest
from catdog.paired import Paired
from catdog.promotion import (
    NO_STAGE,
    PRODUCTION,
    STAGING,
    STATUS_TAG,
    Candidate,
    Champion,
    Decision,
    refusal,
)

PREVIOUS = "previous"
EVENT = "promotion_"
"""How the tags of the registered model begin that tell of promotions; then comes the time."""
PAIRED = "vs_champion_"
"""How the tags and metrics begin that tell how a version compares with the champion."""
TRIES = 3
SECTION = "## Where it stands, and why"
"""The last section of a version's description."""


@dataclass(frozen=True)
class Event:
    """A promotion: when (UTC), by whom, which version after which, from which run, and why."""

    when: str
    who: str
    version: str
    before: str
    run_id: str
    why: str


def as_champion(version: ModelVersion | None) -> Champion | None:
    """What deciding needs to know of the version that serves."""
    if version is None:
        return None
    return Champion(str(version.version), Candidate.from_tags(version.tags))


def settle(
    version: ModelVersion,
    contest: Callable[[ModelVersion | None], Contest],
    decide: Callable[[Contest], Decision],
) -> tuple[Decision, Contest]:
    """Compare a version with the champion, and put it where it belongs.

    When another version has become champion meanwhile, as a run beside this one may bring it
    about, the comparison is made again, with that one.

    Args:
        version: the challenger.
        contest: compares it with the champion.
        decide: where it belongs after that.

    Raises:
        CatdogError: the registry refused, or champions change faster than they are compared.
    """
    for _ in range(TRIES):
        held = contest(registry.champion(version.name))
        decision = decide(held)
        current = registry.champion(version.name)
        if _number(current) == _number(held.champion):
            place(version, decision, held)
            return decision, held
    raise CatdogError(
        f"the version in Production of {version.name} changed {TRIES} times while version "
        f"{version.version} was compared: run python scripts/promote.py --version "
        f"{version.version} when the other runs are done."
    )


def place(version: ModelVersion, decision: Decision, contest: Contest) -> None:
    """Give a version the stage that was decided on, and write down why, on the version itself.

    Raises:
        CatdogError: the registry refused.
    """
    client = MlflowClient()
    rejected = decision.stage == NO_STAGE
    tags = {STATUS_TAG: "rejected" if rejected else "approved", "stage_reason": decision.told}
    if contest.champion is not None:
        tags["compared_with"] = str(contest.champion.version)
    if isinstance(contest.evidence, Paired):
        tags |= {name: repr(value) for name, value in contest.evidence.to_dict(PAIRED).items()}
    with _refusals_are_told(version):
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.version, key, value)
        known = client.get_model_version(version.name, version.version).description
        client.update_model_version(
            version.name, version.version, description=_described(known or "", decision)
        )
        if decision.stage == STAGING and _number(registry.champion(version.name)) != _number(
            version
        ):
            _set_stage(client, version, STAGING)
    if decision.stage == PRODUCTION:
        crown(version, decision.told)


def crown(version: ModelVersion, why: str) -> None:
    """Make a version the champion; nothing but the aliases changes where it is already.

    Raises:
        CatdogError: the registry refused.
    """
    client = MlflowClient()
    with _refusals_are_told(version):
        before = registry.champion(version.name)
        _set_stage(client, version, PRODUCTION)
        for alias in registry.ALIASES:
            client.set_registered_model_alias(version.name, alias, version.version)
        if _number(before) == _number(version):
            return
        if before is not None:
            client.set_registered_model_alias(version.name, PREVIOUS, before.version)
        event = Event(
            when=datetime.now(UTC).isoformat(timespec="microseconds"),
            who=_who(),
            version=str(version.version),
            before=_number(before),
            run_id=version.run_id or "",
            why=why,
        )
        key = EVENT + event.when.translate(str.maketrans("", "", "-:.")).replace("+0000", "Z")
        client.set_registered_model_tag(version.name, key, json.dumps(asdict(event)))


def promote_to(version: ModelVersion, why: str) -> Decision:
    """Make a version the champion because somebody says so, unless it may never be.

    Raises:
        CatdogError: it is rejected, tells other things apart, or was trained on drawings where
            photos are served; or the registry refused.
    """
    refused = may_not(version)
    if refused:
        raise CatdogError(
            f"version {version.version} of {version.name} can't serve: {refused.reason}. "
            "Name another version with --to."
        )
    decision = Decision(PRODUCTION, why)
    crown(version, why)
    with _refusals_are_told(version):
        MlflowClient().set_model_version_tag(version.name, version.version, "stage_reason", why)
    return decision


def may_not(version: ModelVersion) -> Decision | None:
    """Why a version may never take the place of the one that serves now; None when it may."""
    now = as_champion(registry.champion(version.name))
    candidate = Candidate.from_tags(version.tags)
    if candidate is None and not registry.is_rejected(version):
        return None  # of somebody who has registered it by hand, and names it
    return refusal(candidate, now)


def predecessor(name: str) -> ModelVersion:
    """The version that served before the one that serves now.

    Raises:
        CatdogError: there is none.
    """
    now = _number(registry.champion(name))
    known = {_number(version): version for version in registry.versions(name)}
    marked = registry.aliased(name, PREVIOUS)
    numbers = [_number(marked), *(event.before for event in reversed(history(name)))]
    for number in numbers:
        if number in known and number != now:
            return known[number]
    raise CatdogError(
        f"no version of {name} served before the one in Production: name one with --to VERSION, "
        "of those that python scripts/promote.py --history lists."
    )


def history(name: str) -> list[Event]:
    """All promotions of a registered model, the oldest first."""
    try:
        tags = MlflowClient().get_registered_model(name).tags
    except MlflowException:
        return []
    told = (json.loads(value) for key, value in tags.items() if key.startswith(EVENT))
    return sorted((Event(**event) for event in told), key=lambda event: event.when)


def _set_stage(client: MlflowClient, version: ModelVersion, stage: str) -> None:
    """Put a version into a stage, the former ones of Production into Archived.

    The one place where a stage is set: where MLflow has none any more, aliases carry on.
    """
    if not hasattr(client, "transition_model_version_stage"):
        return
    with warnings.catch_warnings():
        # MLflow prefers aliases since 2.9, but models:/catdog/Production names a stage.
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(
            version.name, version.version, stage, archive_existing_versions=stage == PRODUCTION
        )


@contextlib.contextmanager
def _refusals_are_told(version: ModelVersion) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        uri = f"models:/{version.name}/{version.version}"
        raise registry.refused(version.name, uri, error) from error


def _described(card: str, decision: Decision) -> str:
    """A version's description, with what was decided as its last section."""
    card = card.split(SECTION, maxsplit=1)[0].rstrip()
    return f"{card}\n\n{SECTION}\n\n{decision.stage}: {decision.told}.\n"


def _number(version: ModelVersion | None) -> str:
    return str(version.version) if version is not None else ""


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container whose user has no name
