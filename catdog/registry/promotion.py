"""Who serves: whether a challenger may take the champion's place, and why. Pure.

First what no comparison outweighs: other answers than in training, other classes, or drawings
where photos are served. Then what the user wants. Only then the evidence, on the same photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catdog import CLASSES, Classes
from catdog.config import Promote
from catdog.data.classes import both

if TYPE_CHECKING:  # predicting finds its model through here, and must not wait for statistics
    from catdog.evaluation.comparison import Paired

STATUS_TAG, STATUSES = "validation_status", ("pending", "approved", "rejected")
PRODUCTION, STAGING, ARCHIVED, NO_STAGE = "Production", "Staging", "Archived", "None"
AT_LEAST = 10  # fewer photos of a class that neither learned from are no evidence
GONE = "its files are gone"  # of a champion that makes way, as nobody can use it


@dataclass(frozen=True)
class Candidate:
    """What a version says of itself, apart from how good it is.

    Attributes:
        validation_digest: of its validation pictures.
        drawn: whether it learned from drawn pictures.
        classes: what it tells apart, class 0 first.
        status: whether a fresh process was seen to answer as the training did.
    """

    validation_digest: str
    drawn: bool
    classes: Classes = CLASSES
    status: str = "pending"

    def to_tags(self) -> dict[str, str]:
        """The tags of a registered version that `from_tags` reads."""
        return {
            "validation_digest": self.validation_digest,
            "data": "drawn" if self.drawn else "photos",
            "classes": ",".join(self.classes),
            STATUS_TAG: self.status,
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Candidate | None:
        """The candidate that a version's tags describe; None when they describe none."""
        try:
            # Versions from before there were other classes don't name theirs.
            negative, positive = tags.get("classes", ",".join(CLASSES)).split(",")
            return cls(
                validation_digest=tags["validation_digest"],
                drawn=tags["data"] == "drawn",
                classes=(negative, positive),
                status=STATUSES[STATUSES.index(tags.get(STATUS_TAG, "pending"))],
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Decision:
    """The stage for a version, why, in a few words, and the counts and intervals behind it."""

    stage: str
    reason: str
    evidence: str = ""

    @property
    def summary(self) -> str:
        """Reason and evidence in one clause."""
        return f"{self.reason}: {self.evidence}" if self.evidence else self.reason


@dataclass(frozen=True)
class Champion:
    """Who serves now: the version's number, and what it says of itself, if it does."""

    version: str
    candidate: Candidate | None


def refusal(challenger: Candidate | None, champion: Champion | None) -> Decision | None:
    """Why a version may never serve in the champion's place; None when nothing forbids it."""
    if challenger is None:
        return Decision(STAGING, "it does not say what it was made of")
    if challenger.status == "rejected":
        return Decision(NO_STAGE, "a fresh process does not answer as the training did")
    if challenger.status == "pending":
        return Decision(NO_STAGE, "it was never seen to answer as the training did")
    if champion is None:
        return None
    theirs = champion.candidate
    if theirs is not None and challenger.classes != theirs.classes:
        ours, others = both(challenger.classes), both(theirs.classes)
        return Decision(STAGING, f"it tells {ours} apart, the version in Production {others}")
    if challenger.drawn and (theirs is None or not theirs.drawn):
        return Decision(STAGING, "drawn pictures never replace a model trained on photos")
    return None


def decide(
    challenger: Candidate | None,
    champion: Champion | None,
    evidence: Paired | str,
    *,
    promote: Promote = "auto",
    margin: float,
) -> Decision:
    """Decide whether a version takes the champion's place.

    Under `auto` it does when it is surely better (more answers right or better probabilities
    than chance explains, see `catdog.evaluation.comparison`), surely worse in neither of the
    two, and not less accurate by more than `margin`, by the estimate. Of equal models about one
    in twenty passes: who tries many against the same photos will see one of them pass.

    Args:
        challenger: None when the version's tags don't describe it.
        champion: None when nobody serves now.
        evidence: the comparison, or why there is none, in one clause.
        promote: `never` and `always` leave the evidence aside, and never what `refusal` says.
        margin: by how much accuracy may be lower, as a share, for better probabilities.
    """
    if refused := refusal(challenger, champion):
        return refused
    if promote == "never":
        return Decision(STAGING, "promote=never")
    if champion is None:
        return Decision(PRODUCTION, "no version was in Production")
    figures = evidence if isinstance(evidence, str) else evidence.summary()
    if promote == "always":
        return Decision(PRODUCTION, f"promote=always, over version {champion.version}", figures)
    if champion.candidate and champion.candidate.drawn and challenger and not challenger.drawn:
        return Decision(PRODUCTION, "the version in Production was trained on drawn pictures")
    if evidence == GONE:
        return Decision(PRODUCTION, f"the files of version {champion.version} are gone")
    if isinstance(evidence, str):
        return Decision(STAGING, f"not comparable with version {champion.version}", figures)
    stage, verdict = _weigh(evidence, margin)
    return Decision(stage, f"{verdict} than version {champion.version}", figures)


def _weigh(evidence: Paired, margin: float) -> tuple[str, str]:
    """The stage that a comparison earns, and the verdict in words."""
    if evidence.surely_worse and evidence.surely_better:
        return STAGING, "surely better in one way, and surely worse in another,"
    if evidence.surely_worse:
        return STAGING, "surely worse"
    if evidence.accuracy < -margin:
        return STAGING, f"less accurate by more than the margin of {margin:g}"
    if evidence.surely_better:
        return PRODUCTION, "surely better"
    return STAGING, "not surely better"
