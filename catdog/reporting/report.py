"""What a run found out → one HTML file that opens anywhere, without a network.

In: a `Report` of plain numbers, arrays, strings and JPEG bytes, each part of it optional.
Out: the page, from templates/report.html.j2. Pure: no files, no model, no MLflow.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

from catdog import CLASSES, Classes
from catdog.data.classes import one, other, probability_name
from catdog.reporting import charts

MOST_PICTURES = 48
"""In one contact sheet; the rest stands in the run's tables. Keeps the page below 3 MB."""
MOST_NAMES = 200
"""Of files listed by name."""
ISSUES = ("wrong_label", "near_duplicate", "unlike_others")
"""What the audit looks for, in the order of the page."""


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval, beside that of others; shown as a share if `percent`.

    What is not known is nan or None.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    baseline: float | None = None
    production: float | None = None
    production_low: float = math.nan
    production_high: float = math.nan
    percent: bool = True
    higher_is_better: bool = True


@dataclass(frozen=True)
class Learning:
    """Numbers of epoch 1 and on; `kept` is the epoch whose weights were kept."""

    train_loss: Sequence[float]
    val_loss: Sequence[float]
    train_accuracy: Sequence[float]
    val_accuracy: Sequence[float]
    kept: int
    baseline_loss: float | None = None
    baseline_accuracy: float | None = None


@dataclass(frozen=True)
class Ranking:
    """`(N,)` labels, 0 = cat and 1 = dog, both present, and a score of dog for each photo."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    baseline: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Calibration:
    """`(N,)` labels, and probabilities of class 1 as trained and after calibration.

        That divides the logit by `temperature`. `changes` lists what that did to ECE, Brier score
    and log-loss: name, before, after.
    """

    labels: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64] | None = None
    temperature: float = 1.0
    changes: Sequence[tuple[str, float, float]] = ()


@dataclass(frozen=True)
class Threshold:
    """What it costs to miss at most a share of one class.

    Where the probability is above `threshold` a photo is called a dog. `missed` of `total` photos
    of `label` are missed, and `taken` of the `others` are taken for it.
    """

    label: str
    at_most: float
    threshold: float
    missed: int
    total: int
    taken: int
    others: int


@dataclass(frozen=True)
class Slice:
    """Photos with something in common, and the share of them that is labelled right."""

    name: str
    count: int
    errors: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Slices:
    """All slices; `worst` is the name of the one with the lowest accuracy, "" for none.

    `verdict` says whether it is worse indeed.
    """

    rows: Sequence[Slice]
    overall: float
    worst: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class OnTest:
    """How the model does on `count` labelled test photos."""

    count: int
    metrics: Sequence[Metric]
    slices: Slices | None = None


@dataclass(frozen=True)
class Familiarity:
    """How familiar validation photos and pictures of something else look; more is more so.

    Neither is empty. What lies below `threshold` is answered with "neither".
    """

    known: NDArray[np.float64]
    strangers: NDArray[np.float64]
    threshold: float
    auroc: float
    scale: str = "familiarity"

    @property
    def told(self) -> float:
        """The share of strangers that is recognised as such."""
        return float(np.mean(np.asarray(self.strangers) < self.threshold))

    @property
    def lost(self) -> float:
        """The share of validation photos that is taken for strangers."""
        return float(np.mean(np.asarray(self.known) < self.threshold))


@dataclass(frozen=True)
class Mistake:
    """A photo that is labelled wrong; `heat_map` shows where the model looked, if known."""

    path: str
    label: str
    p_positive: float
    thumbnail: bytes
    heat_map: bytes = b""


@dataclass(frozen=True)
class Suspect:
    """A photo that the audit points at; `score` in 0..1, 1 = surest.

    `issue` is a key of `ISSUES`, `detail` says what is suspected; a near-duplicate has a
    `twin`. The digests are sha256 in hex.
    """

    path: str
    issue: str
    score: float
    detail: str
    thumbnail: bytes
    twin: str = ""
    twin_thumbnail: bytes = b""
    digest: str = ""
    twin_digest: str = ""

    @property
    def line(self) -> str:
        """What leaves the photo out when it stands in an exclude file."""
        return _exclude_line(self.path, self.digest)

    @property
    def twin_line(self) -> str:
        """What leaves its twin out."""
        return _exclude_line(self.twin, self.twin_digest)


@dataclass(frozen=True)
class Audit:
    """The surest suspects first; `found` says how many there are of each issue."""

    suspects: Sequence[Suspect]
    found: Mapping[str, int] = field(default_factory=dict)

    def sheets(self) -> list[tuple[str, list[Suspect], int]]:
        """Of each issue that was found: its key, the suspects to show, how many there are."""
        by_issue = {
            issue: [suspect for suspect in self.suspects if suspect.issue == issue]
            for issue in ISSUES
        }
        return [
            (issue, suspects[:MOST_PICTURES], max(len(suspects), self.found.get(issue, 0)))
            for issue, suspects in by_issue.items()
            if suspects
        ]


@dataclass(frozen=True)
class Data:
    """Which pictures were used. `counts` holds, by split, the pictures of each class.

    `quarantined` holds a path and a reason each, `excluded` paths.
    """

    name: str
    origin: str
    counts: Mapping[str, Mapping[str, int]]
    digest: str = ""
    validation_digest: str = ""
    quarantined: Sequence[tuple[str, str]] = ()
    excluded: Sequence[str] = ()


@dataclass(frozen=True)
class Command:
    """A line to type, and what it is good for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class Report:
    """All that the page may show. A part that is None or empty is left out.

    `classes` are what the labels mean, `verdict` says the result in a sentence, `about` which run
    and when, `champion` how the model compares with the one in Production before it, `raw` the
    figures with the excluded photos. `confusion` is `(2, 2)`: row = truth, column = prediction,
    cat before dog.
    """

    title: str
    classes: Classes = CLASSES
    verdict: str = ""
    about: str = ""
    metrics: Sequence[Metric] = ()
    raw: str = ""
    production: str = "Production"
    champion: str = ""
    confusion: NDArray[np.int64] | None = None
    ranking: Ranking | None = None
    thresholds: Sequence[Threshold] = ()
    calibration: Calibration | None = None
    slices: Slices | None = None
    test: OnTest | None = None
    familiarity: Familiarity | None = None
    mistakes: Sequence[Mistake] = ()
    audit: Audit | None = None
    learning: Learning | None = None
    data: Data | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    reproduce: Sequence[Command] = ()
    use: Sequence[Command] = ()

    def has(self, name: str) -> bool:
        """Whether the part has something to show."""
        part = getattr(self, name)
        return len(part) > 0 if isinstance(part, Sized) else part is not None


def render(report: Report) -> str:
    """The report as one HTML file that needs no other; the same report gives the same text."""
    page = _template().render(
        report=report,
        charts=charts,
        classes=report.classes,
        probability=probability_name(report.classes),
        share=share,
        number=number,
        most_pictures=MOST_PICTURES,
        most_names=MOST_NAMES,
    )
    # A name that is not UTF-8 reaches us with surrogates, which no file can hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def share(value: float | None) -> str:
    """A share in 0..1 as people write it, "98.5 %"; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    # Rounding must not claim that a model makes no mistake.
    if 0.9995 <= value < 1:
        return ">\N{NO-BREAK SPACE}99.9\N{NO-BREAK SPACE}%"
    if 0 < value < 0.0005:
        return "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    """A number with four digits behind the point; a dash for what is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def digits(value: float) -> str:
    """A number with all its digits, so that who types it gets what was counted: "0.0031"."""
    return np.format_float_positional(value, trim="-")


@cache
def _template() -> Template:
    pages = Environment(
        loader=PackageLoader("catdog"),
        autoescape=True,  # a file's name may be anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"share": share, "number": number, "digits": digits, "count": "{:,}".format}
    pages.filters |= {"one": one, "other": other}
    pages.filters |= {"jpeg": _data_uri, "sha256": _sha256}
    return pages.get_template("report.html.j2")


def _exclude_line(path: str, digest: str) -> str:
    # The digest names the photo wherever another split would put it. A path may hold a
    # line break, and what followed it would be a line of its own.
    return f"{digest[:16]}  # {' '.join(path.split())}" if digest else path


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
