"""Who serves, who served before, and why: aliases, history, and the stage Production.

A promotion moves the aliases, adds a line to the history, says on the versions why, and moves the
stage last. Until then the version before serves, and the same promotion, made again, does all
that is left; afterwards nothing is.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from catdog import CatdogError
from catdog.config import Promote
from catdog.registry import versions
from catdog.registry.compare import NOT_COMPARED, Comparison
from catdog.registry.promotion import (
    ARCHIVED,
    PRODUCTION,
    STATUS_TAG,
    Candidate,
    Champion,
    Decision,
    decide,
    refusal,
)
from catdog.registry.versions import ModelVersion, is_same, number_of

PREVIOUS = "previous"
"""The alias of who served before."""
ROLLED_BACK = "rolled_back"
"""The tag of a version from which somebody went back, with the time."""
KEY, KEY_TIME = re.compile(r"promotion_(\d{8}T\d+Z)"), "%Y%m%dT%H%M%S%fZ"
"""The tags of the registered model that are its history."""
LINE = re.compile(r"version (\d+)(?: after (\d+))?, by (.*?)(?:, of run (\w+))?: (.*)")
SECTION = "## Where it stands, and why"
"""The last section of a version's description."""
TRIES = 3
LONGEST = 1000
"""Characters of a reason: a database may take 5000 in a tag, and in a description with its card."""


@dataclass(frozen=True)
class Event:
    """A promotion: when (UTC), by whom, which version after which, from which run, and why."""

    when: datetime
    who: str
    version: str
    before: str
    run_id: str
    why: str

    def to_tag(self) -> tuple[str, str]:
        """The key, and the value for people to read, of the tag that `from_tag` reads."""
        after = f" after {self.before}" if self.before else ""
        run = f", of run {self.run_id}" if self.run_id else ""
        line = f"version {self.version}{after}, by {self.who}{run}: {self.why}"
        return f"promotion_{self.when.strftime(KEY_TIME)}", line

    @classmethod
    def from_tag(cls, key: str, value: str) -> Event | None:
        """The promotion that a tag of the registered model records; None where it records none."""
        found = KEY.fullmatch(key)
        if found is None:
            return None
        when = datetime.strptime(found[1], KEY_TIME).replace(tzinfo=UTC)
        if line := LINE.fullmatch(value):
            version, before, run_id = line[1], line[2] or "", line[4] or ""
            return cls(when, line[3], version, before, run_id, line[5])
        try:  # as earlier commits have written it
            return cls(**json.loads(value) | {"when": when})
        except (TypeError, ValueError):
            return None


def history(name: str) -> list[Event]:
    """All promotions of a registered model, the oldest first; none where nothing is called so.

    Raises:
        MlflowException: the registry does not say.
    """
    try:
        tags = MlflowClient().get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    events = [Event.from_tag(key, value) for key, value in tags.items()]
    return sorted(filter(None, events), key=lambda event: event.when)


class ChampionChangedError(CatdogError):
    """Another version has become champion meanwhile."""

    def __init__(self, version: ModelVersion) -> None:
        super().__init__(
            f"another version of {version.name} became champion meanwhile, and serves: run "
            f"{versions.promoting(version.name)} --version {version.version} when the other "
            "promotions are done."
        )


def approve(version: ModelVersion, *, proven: bool) -> None:
    """Write down whether a fresh process was seen to answer as the training did.

    Raises:
        MlflowException: the registry refused.
    """
    status = "approved" if proven else "rejected"
    MlflowClient().set_model_version_tag(version.name, version.version, STATUS_TAG, status)


def promote_by_evidence(
    version: ModelVersion,
    compare: Callable[[ModelVersion], Comparison],
    *,
    promote: Promote = "auto",
    margin: float,
    dry_run: bool = False,
) -> tuple[Decision, Comparison]:
    """Judge a version, and give it the stage that it earns, unless this is a dry run.

    When another version has become champion meanwhile, as a run beside this one may bring it
    about, it is judged again, with that one. A version that serves already, as it may after a run
    was cut, is not compared with itself; where its proof has failed now it leaves Production.

    Raises:
        CatdogError: the champion changed again and again.
        MlflowException: the registry refused.
    """
    for _ in range(TRIES):
        champion = versions.champion(version.name)
        known = MlflowClient().get_model_version(version.name, version.version)
        if is_same(known, champion) and not versions.is_rejected(known):
            return Decision(PRODUCTION, "it is in Production already"), NOT_COMPARED
        comparison = Comparison(champion)
        if was_rolled_back(known):
            reason = "it was rolled back: promote.py --to names it again"
            return Decision(ARCHIVED, reason), comparison
        candidate, now = Candidate.from_tags(known.tags), _as_champion(champion)
        if champion is not None and refusal(candidate, now) is None:
            comparison = compare(champion)
        decision = decide(candidate, now, comparison.evidence, promote=promote, margin=margin)
        if dry_run:
            return decision, comparison
        with contextlib.suppress(ChampionChangedError):
            place(version, decision, comparison)
            return decision, comparison
    raise ChampionChangedError(version)


def place(version: ModelVersion, decision: Decision, comparison: Comparison) -> None:
    """Give a version the stage that was decided on; its description says why, in figures, too.

    Raises:
        ChampionChangedError: who serves is not the champion that it was compared with.
        MlflowException: the registry refused.
    """
    if not is_same(comparison.champion, versions.champion(version.name)):
        raise ChampionChangedError(version)
    figures = comparison.evidence
    table = "" if isinstance(figures, str) else figures.table(number_of(comparison.champion))
    if decision.stage == PRODUCTION:
        _make_champion(version, decision, table)
    else:
        _set_stage(version, decision.stage)
        _explain(version, decision, table)


def promote_to(version: ModelVersion, why: str, *, dry_run: bool = False) -> Decision:
    """Make a version the champion because somebody says so, unless it may never be.

    Raises:
        CatdogError: it was not proven, tells other things apart, was trained on drawings where
            photos are served, or says nothing of itself.
    """
    if forbidden := _may_not_serve(version):
        raise CatdogError(
            f"version {version.version} of {version.name} can't serve: {forbidden.reason}. "
            "Name another version with --to."
        )
    decision = Decision(PRODUCTION, " ".join(why.split())[:LONGEST])
    if dry_run:
        return decision
    if was_rolled_back(version):  # cut after the move, it would serve and be marked
        MlflowClient().delete_model_version_tag(version.name, version.version, ROLLED_BACK)
    _make_champion(version, decision)
    return decision


def roll_back(name: str, why: str, *, dry_run: bool = False) -> tuple[ModelVersion, Decision]:
    """Let the version serve that did so before; the one that serves now is marked.

    A marked version serves again only when it is named.

    Raises:
        CatdogError: none served before, or it may not any more.
    """
    leaving, back = versions.champion(name), _served_before(name)
    if back is None:
        raise CatdogError(
            f"no version of {name} served before the one in Production: name one with --to "
            f"VERSION, of those that {versions.promoting(name)} --history lists."
        )
    if leaving is not None and _may_not_serve(back) is None and not dry_run:
        # Before the move: cut after it, the same command would lead back to this one.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        MlflowClient().set_model_version_tag(name, leaving.version, ROLLED_BACK, now)
    return back, promote_to(back, why, dry_run=dry_run)


def _served_before(name: str) -> ModelVersion | None:
    """The newest of the history that may serve and does not, and from which nobody went back."""
    champion = versions.champion(name)
    known = {number_of(version): version for version in versions.versions(name)}
    for event in reversed(history(name)):
        for number in (event.version, event.before):
            found = known.get(number)
            if found and not (
                is_same(found, champion) or was_rolled_back(found) or versions.is_rejected(found)
            ):
                return found
    return None


def was_rolled_back(version: ModelVersion) -> bool:
    """Whether somebody went back from this version to the one before."""
    return ROLLED_BACK in version.tags


def _may_not_serve(version: ModelVersion) -> Decision | None:
    """Why a version may never take the place of the one that serves now; None when it may."""
    champion = versions.champion(version.name)
    return refusal(Candidate.from_tags(version.tags), _as_champion(champion))


def _as_champion(version: ModelVersion | None) -> Champion | None:
    """What the rule needs to know of the version that serves."""
    if version is None:
        return None
    return Champion(number_of(version), Candidate.from_tags(version.tags))


def _make_champion(version: ModelVersion, decision: Decision, table: str = "") -> None:
    """Move aliases, history and stage to a version, in this order; see above.

    Raises:
        ChampionChangedError: another one was promoted at the same time, and serves.
    """
    former = versions.champion(version.name)
    if is_same(version, former):  # somebody has moved the stage by hand, or says it twice
        former = _served_before(version.name)
    _move_aliases(version, former)
    _add_to_history(version, number_of(former), decision.summary)
    _explain(version, decision, table)
    leaving = versions.champion(version.name)  # by now perhaps another one
    if leaving is not None and not is_same(version, leaving):
        reason = f"version {version.version} took its place"
        if was_rolled_back(leaving):
            reason = f"rolled back to version {version.version}: {decision.reason}"
        _explain(leaving, Decision(ARCHIVED, reason))
    _set_stage(version, PRODUCTION)

    # Of two promotions at once the one that sets the stage last wins.
    _move_aliases(version, None)
    champion = versions.champion(version.name)
    if champion is not None and not is_same(version, champion):
        _move_aliases(champion, None)
        raise ChampionChangedError(version)


def _move_aliases(version: ModelVersion, former: ModelVersion | None) -> None:
    """Give a version the aliases of who serves, and `former` its own."""
    client, wanted = MlflowClient(), dict.fromkeys(versions.ALIASES, number_of(version))
    if former is not None:
        wanted[PREVIOUS] = number_of(former)
    now = client.get_registered_model(version.name).aliases
    for alias, number in wanted.items():
        if str(now.get(alias)) != number:
            client.set_registered_model_alias(version.name, alias, number)


def _add_to_history(version: ModelVersion, before: str, why: str) -> None:
    """Add a promotion to the history, unless it is the last one, made again."""
    number, now, events = number_of(version), datetime.now(UTC), history(version.name)
    if events:
        last = events[-1]
        if last.version == number and before in (last.before, ""):
            return
        # Clocks differ, and go backwards; the order of promotions does not.
        now = max(now, last.when + timedelta(microseconds=1))
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"  # a container whose user has no name
    event = Event(now, who, number, before, version.run_id or "", why)
    MlflowClient().set_registered_model_tag(version.name, *event.to_tag())


def _set_stage(version: ModelVersion, stage: str) -> None:
    """Put a version into a stage, the former ones of Production into Archived."""
    with versions.stages_are_fine():
        MlflowClient().transition_model_version_stage(
            version.name, version.version, stage, archive_existing_versions=stage == PRODUCTION
        )


def _explain(version: ModelVersion, decision: Decision, table: str = "") -> None:
    """Say in a version's description where it stands, and why: by a table, or else in words."""
    known = MlflowClient().get_model_version(version.name, version.version)
    card = (known.description or "").split(SECTION)[0].rstrip()
    why = f"{decision.reason}.\n\n{table}" if table else f"{decision.summary}."
    versions.describe(version, f"{card}\n\n{SECTION}\n\n{decision.stage}: {why}\n")
