"""What is known of a run → one HTML file that opens anywhere, without a network.

In: findings, what training left, and where the version went. Out: the page, which
templates/report.html.j2 lays out. Reads pictures to show them; writes nothing.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from catdog.data import images
from catdog.data.classes import one, other, probability_name
from catdog.data.dataset import EXCLUDED, TRAINING, VALIDATION, PreparedDataset, if_readable
from catdog.evaluation import audit
from catdog.evaluation.calibration import predicted_labels
from catdog.evaluation.comparison import Paired
from catdog.evaluation.metrics import confusion_counts, estimates
from catdog.evaluation.slices import worst_slice
from catdog.registry.compare import Comparison
from catdog.registry.register import Released
from catdog.reporting import plots
from catdog.reporting.findings import PREFIX, RAW_PREFIX, THUMBNAIL_PX, Findings
from catdog.reporting.plots import Chart, to_svg
from catdog.training.judge import Trained

MOST_PICTURES = 48
"""In one contact sheet; the rest stands in the run's tables. Keeps the page below 3 MB."""


class Command(NamedTuple):
    """A line to type, and what it is good for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class RunDetails:
    """What the page says of a run beside its results.

    `identity` says which run it is, when it began, and from which commit, `versions` of which
    software it used, `reproduce` how to train the same again, and `use` how to use the version.
    """

    identity: str
    parameters: Mapping[str, object]
    versions: Mapping[str, str]
    reproduce: Sequence[Command]
    use: Sequence[Command]


def render(
    dataset: PreparedDataset,
    trained: Trained,
    released: Released,
    findings: Findings,
    details: RunDetails,
) -> str:
    """The report as one HTML file that needs no other; the same input gives the same text.

    A picture that can't be read any more is grey there, and named in a warning.
    """
    judgement, version, decision = trained.judgement, released.version, released.decision
    untrained = {}
    if trained.baseline_logits is not None:
        untrained = estimates(judgement.labels, trained.baseline_logits)
    result = f"version {version.version} went to {decision.stage}: {decision.reason}"
    excluded = [
        row["path"]
        for split in (TRAINING, VALIDATION)
        for row in dataset.rows(f"{EXCLUDED}-{split}")
    ]
    with dataset.quarantine.open(encoding="utf-8", newline="") as stream:
        left_out = list(csv.DictReader(stream))
    page = _template().render(
        title=f"{version.name} version {version.version}",
        verdict=_verdict(findings, untrained, len(judgement.labels), result),
        dataset=dataset,
        excluded=excluded,
        left_out=left_out,
        trained=trained,
        confusion=confusion_counts(judgement.labels, predicted_labels(judgement.logits)).matrix,
        measured=judgement.metrics(trained.classifier.about),
        refused=float(np.mean(judgement.familiarity < trained.classifier.about.reject_below)),
        untrained=untrained,
        comparison=released.comparison,
        findings=findings,
        raw=with_excluded(findings.other_metrics),
        charts=_charts(trained, findings),
        details=details,
        classes=dataset.classes,
        probability=probability_name(dataset.classes),
        thumbnail=lambda path: thumbnail_of(dataset.folder / path),
    )
    # A name that is not UTF-8 reaches us with surrogates, which no file can hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def compared(comparison: Comparison) -> str:
    """How this version compares with the one in Production, in a sentence; "" where none is."""
    if comparison.champion is None:
        return ""
    version = comparison.champion.version
    if isinstance(comparison.evidence, Paired):
        where = f"Against version {version} in Production, on photos that neither learned from: "
        return f"{where}{comparison.evidence.summary()}."
    return f"Not compared with version {version} in Production: {comparison.evidence}."


def with_excluded(metrics: Mapping[str, float]) -> str:
    """Figures with the excluded photos among the others, in a sentence; "" without any."""
    key = f"{RAW_PREFIX}accuracy_score"
    if key not in metrics:
        return ""
    accuracy, low, high = (share(metrics[f"{key}{end}"]) for end in ("", "_ci_low", "_ci_high"))
    return (
        f"With the excluded photos, {metrics[f'{RAW_PREFIX}example_count']:,.0f} in all: accuracy "
        f"{accuracy} ({low} to {high}), log-loss {metrics[f'{RAW_PREFIX}log_loss']:.4f}."
    )


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


def exclude_line(path: str, digest: str) -> str:
    """What leaves a photo out of the next training when it stands in an exclude file."""
    # The digest names the photo wherever another split would put it. A path may hold a
    # line break, and what followed it would be a line of its own.
    return f"{digest[:16]}  # {' '.join(path.split())}"


def thumbnail_of(photo: Path) -> Image.Image:
    """What `thumbnail` gives of a file; a grey picture where it can't be read any more."""
    grey = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), "lightgrey")
    return if_readable(photo, thumbnail) or grey


def thumbnail(content: bytes) -> Image.Image:
    """A small copy of a picture: upright, at most `THUMBNAIL_PX` pixels wide and high.

    Raises:
        UnreadableImageError: the bytes don't decode.
    """
    picture = images.decode(content, side_px=THUMBNAIL_PX)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture


SHOWN_METRICS = {
    "accuracy_score": share,
    "precision_score": share,
    "recall_score": share,
    "f1_score": share,
    "roc_auc": number,
    "precision_recall_auc": number,
    "log_loss": number,
    "brier_score": number,
    "matthews_corrcoef": number,
}
"""In the tables of metrics, in this order, and how they are written."""


def _verdict(findings: Findings, untrained: Mapping[str, float], photos: int, decision: str) -> str:
    """The result in a sentence, with what became of the model."""
    key = f"{PREFIX}accuracy_score"
    accuracy, low, high = (findings.metrics[f"{key}{end}"] for end in ("", "_ci_low", "_ci_high"))
    sentence = (
        f"Right on {share(accuracy)} of {photos:,} held back photos "
        f"(95 % sure: {share(low)} to {share(high)})"
    )
    if "accuracy_score" in untrained:
        gap = accuracy - untrained["accuracy_score"]
        than = "better than" if gap > 0 else "worse than" if gap < 0 else "as good as"
        level = share(untrained["accuracy_score"])
        sentence += f", {than} ImageNet's classes untrained ({level})"
    return f"{sentence}; {decision.rstrip('.')}."


def _charts(trained: Trained, findings: Findings) -> dict[str, list[Chart]]:
    """The charts of the page by section."""
    judgement, about = trained.judgement, trained.classifier.about
    ranked = (judgement.labels, judgement.logits, trained.baseline_logits, about.classes)
    epochs = (trained.fit.epochs, trained.best.number, trained.baseline)
    charts = {
        "ranking": [
            to_svg(plots.draw_roc_curve, *ranked),
            to_svg(plots.draw_precision_recall_curve, *ranked),
        ],
        "calibration": [to_svg(plots.draw_reliability, judgement, about.classes)],
        "familiarity": [to_svg(plots.draw_familiarity, judgement, about.reject_below)],
        "learning": [
            to_svg(plots.draw_learning_curve, "loss", *epochs),
            to_svg(plots.draw_learning_curve, "accuracy", *epochs),
        ],
    }
    for name, table in (("slices", findings.slices), ("test_slices", findings.test_slices)):
        size = plots.slices_size(table)
        charts[name] = [to_svg(plots.draw_slices, table, size=size)] if table[1:] else []
    return charts


def _template() -> Template:
    pages = Environment(
        loader=PackageLoader("catdog.reporting"),
        autoescape=True,  # a file's name may be anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"share": share, "number": number, "count": "{:,}".format}
    pages.filters |= {"one": one, "other": other, "exclude_line": exclude_line}
    pages.filters |= {"sha256": _sha256, "jpeg": _jpeg_uri, "svg": partial(_data_uri, "svg+xml")}
    pages.filters |= {"worst": worst_slice, "explained": audit.explained}
    pages.filters["compared"] = compared
    pages.globals |= {"SHOWN_METRICS": SHOWN_METRICS, "MOST_PICTURES": MOST_PICTURES}
    return pages.get_template("report.html.j2")


def _jpeg_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75, optimize=True)
    return _data_uri("jpeg", stream.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
