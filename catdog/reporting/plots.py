"""Every plot, once: a function draws on axes, for figures in MLflow and for charts in the report.

Each function returns what it has drawn in words, for who cannot see it. Pure: nothing is shown.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike
from sklearn import metrics

from catdog import CLASSES, Classes
from catdog.data.classes import probability_name
from catdog.evaluation.calibration import Labels, Logits, Probabilities, reliability
from catdog.evaluation.intervals import wilson
from catdog.evaluation.metrics import Scores
from catdog.evaluation.slices import SliceScore
from catdog.training.loop import Epoch

INK, MUTED, PAPER = "#1b1f24", "#59636e", "#ffffff"
OURS, OTHER, KEPT = "#0b5cad", "#9a5b00", "#1a7f37"

STYLE = Path(__file__).with_name("plots.mplstyle")
SIZE = (4.7, 3.5)
"""Inches, 72 SVG units each: what still has readable letters across a phone."""
CORNER = 0.1
"""How much of a corner is drawn larger where a good model's curve hides in it."""
LONGEST = 40
"""Letters of a slice's name that are drawn; the axes would have no room beside more."""
FAINTEST = 1e-6
"""The least familiarity that is drawn: a logarithmic axis has no room for zero."""

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Letters that a name may hold and XML may not."""

Draw = Callable[..., str]
"""Draws on the axes that it is given first, and returns what that shows, in words."""


class Chart(NamedTuple):
    """An SVG file without a background, and what it shows, for who cannot see it."""

    svg: bytes
    description: str


def to_svg(draw: Draw, *given: object, size: tuple[float, float] = SIZE) -> Chart:
    """What `draw` draws on axes and `given`; the same drawing gives the same text."""
    stream = io.BytesIO()
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        # The reader's fonts have the letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        description = draw(figure.subplots(), *given)
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    return Chart(stream.getvalue(), description)


def draw_learning_curve(
    axes: Axes,
    measure: Literal["loss", "accuracy"],
    epochs: Sequence[Epoch],
    kept: int,
    baseline: Scores | None = None,
) -> str:
    """Draw a measure by epoch, training beside validation.

    Args:
        axes: to draw on.
        measure: which of the scores to draw.
        epochs: from the first one on.
        kept: number of the epoch whose weights were kept, which gets a ring.
        baseline: the scores with nothing trained, drawn as a level: is training worth it?

    Returns:
        What is drawn, in words.
    """
    scores = [(getattr(epoch.train, measure), getattr(epoch.val, measure)) for epoch in epochs]
    (train, val), numbers = zip(*scores, strict=True), np.arange(1, len(scores) + 1)
    axes.plot(numbers, train, "s--", color=MUTED, label="training")
    axes.plot(numbers, val, "o-", color=OURS, label="validation")
    axes.plot([kept], [val[kept - 1]], "o", ms=11, mfc="none", mec=KEPT, label="kept")
    shown = "{:.1%}" if measure == "accuracy" else "{:.4f}"
    text = f"{measure} by epoch: validation {shown.format(val[kept - 1])} in the kept epoch {kept}"
    if baseline:
        untrained = getattr(baseline, measure)
        axes.axhline(untrained, color=OTHER, linestyle=":", label="untrained")
        text += f"; untrained {shown.format(untrained)}"
    if measure == "accuracy":
        axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel="epoch", ylabel="loss (nats)" if measure == "loss" else measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axes)
    return text


def draw_roc_curve(
    axes: Axes,
    labels: Labels,
    scores: Logits,
    baseline: Logits | None = None,
    classes: Classes = CLASSES,
) -> str:
    """Draw dogs found against cats taken for dogs, at every threshold.

    Args:
        axes: to draw on.
        labels: `(N,)`, 0 = cat and 1 = dog, both present.
        scores: `(N,)`, logits or probabilities of a dog.
        baseline: `(N,)`, scores with nothing trained.
        classes: what they are called.

    Returns:
        What is drawn, in words.
    """
    negative, positive = classes
    area = metrics.roc_auc_score(labels, scores)

    def curves(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="guessing")
        if baseline is not None:
            wrong, found, _ = metrics.roc_curve(labels, baseline)
            axes.plot(wrong, found, "--", color=OTHER, label="untrained")
        wrong, found, _ = metrics.roc_curve(labels, scores)
        axes.plot(wrong, found, color=OURS, label="this model")

    curves(axes)
    _label_shares(axes, f"{negative} taken for {positive}", f"{positive} found")
    if area > 1 - CORNER / 2:
        _enlarge_corner(axes, curves, place=(0.42, 0.14), x=(0, CORNER))
    _legend_above(axes)
    return (
        f"ROC curve, {positive} found against {negative} taken for {positive}: "
        f"the area under it is {area:.4f}"
    )


def draw_precision_recall_curve(
    axes: Axes,
    labels: Labels,
    scores: Logits,
    baseline: Logits | None = None,
    classes: Classes = CLASSES,
) -> str:
    """Draw how many called a dog are dogs, against dogs found; see `draw_roc_curve`."""
    positive = classes[1]
    average = metrics.average_precision_score(labels, scores)

    def curve(axes: Axes, scores: Logits, style: str, colour: str, label: str) -> None:
        precision, recall, _ = metrics.precision_recall_curve(
            labels, scores, drop_intermediate=True
        )
        axes.plot(recall, precision, style, color=colour, label=label)

    def curves(axes: Axes) -> None:
        axes.axhline(float(np.mean(labels)), color=MUTED, linestyle=":", label="guessing")
        if baseline is not None:
            curve(axes, baseline, "--", OTHER, "untrained")
        curve(axes, scores, "-", OURS, "this model")

    curves(axes)
    _label_shares(axes, f"{positive} found (recall)", f"{positive} among those called so")
    if average > 1 - CORNER / 2:
        _enlarge_corner(axes, curves, place=(0.16, 0.14), x=(1 - CORNER, 1))
    _legend_above(axes)
    return f"Precision and recall of {positive}: the average precision is {average:.4f}"


def draw_reliability(
    axes: Axes,
    labels: Labels,
    before: Probabilities,
    after: Probabilities,
    classes: Classes = CLASSES,
) -> str:
    """Draw the share of dogs among photos with a like p_positive, before and after calibration.

    A dot's area grows with the number of photos; a bar is the share's 95 % interval.

    Args:
        axes: to draw on.
        labels: `(N,)`, 0 = cat and 1 = dog.
        before: `(N,)`, p_positive as trained.
        after: `(N,)`, p_positive after calibration.
        classes: what they are called.

    Returns:
        What is drawn, in words.
    """
    share, name = f"share of {classes[1]}", probability_name(classes)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfect")
    series = ((before, "s", OTHER, "as trained"), (after, "o", OURS, "calibrated"))
    for place, (p_positive, marker, colour, label) in enumerate(series):
        predicted, observed, count = reliability(labels, p_positive)
        x = predicted + 0.012 * place  # beside each other where they are alike
        right = np.rint(observed * count).astype(int)
        low, high = zip(*map(wilson, right.tolist(), count.tolist()), strict=True)
        axes.vlines(x, low, high, color=colour, lw=0.9)
        area = 14 + 120 * count / count.sum()
        axes.scatter(x, observed, area, marker=marker, color=colour, label=label)
    _label_shares(axes, name, share)
    _legend_above(axes)
    return f"Reliability: {share} by {name}, as trained and calibrated, against the diagonal"


def draw_familiarity(axes: Axes, validation: ArrayLike, ood: ArrayLike, threshold: float) -> str:
    """Draw how familiar photos of both classes look, beside pictures that are neither.

    Args:
        axes: to draw on.
        validation: familiarity of validation photos, in 0..1; more is more familiar.
        ood: familiarity of pictures that are neither (out of distribution).
        threshold: what looks less familiar is answered with "neither".

    Returns:
        What is drawn, in words.
    """
    validation, ood = (np.maximum(values, FAINTEST) for values in (validation, ood))
    least = min(validation.min(), ood.min(), 1e-2)
    edges = np.geomspace(least, 1, 33).tolist()
    groups = (
        (ood, {"facecolor": "none", "edgecolor": OTHER, "hatch": "////", "label": "neither"}),
        (validation, {"facecolor": OURS, "alpha": 0.55, "label": "validation photos"}),
    )
    for values, look in groups:
        share = np.full(len(values), 1 / len(values))
        axes.hist(values, edges, weights=share, histtype="stepfilled", **look)
    if threshold > 0:
        axes.axvline(threshold, color=INK, linestyle="--", label="threshold")
    axes.set(xscale="log", xlabel="familiarity", ylabel="share of each group")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend_above(axes)
    return (
        f"Familiarity: below the threshold lie {np.mean(ood < threshold):.1%} of the pictures "
        f"that are neither and {np.mean(validation < threshold):.1%} of the validation photos"
    )


def draw_slices(axes: Axes, table: Sequence[SliceScore]) -> str:
    """Draw each slice's accuracy with its interval, one below the other.

    The first row of the `table` is all photos, whose accuracy is drawn as a level to compare
    with. Returns what is drawn, in words.
    """
    whole, *rows = table
    places = np.arange(len(rows))
    axes.axvline(whole.accuracy, color=MUTED, linestyle=":", label="all photos")
    _legend_above(axes)
    axes.hlines(places, [row.low for row in rows], [row.high for row in rows], color=OURS)
    axes.plot([row.accuracy for row in rows], places, "o", color=OURS)
    names = [NOT_XML.sub(" ", row.label) for row in rows]
    axes.set_yticks(places, [it if len(it) <= LONGEST else f"{it[:LONGEST]}…" for it in names])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    # Long names leave it little room, where more numbers would overlap.
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("accuracy, with its 95 % interval")
    lowest = min(rows, key=lambda row: row.accuracy)
    return f"Accuracy of {len(rows)} slices, the lowest {lowest.accuracy:.1%} ({lowest.label})"


def slices_size(table: Sequence[SliceScore]) -> tuple[float, float]:
    """The size of a drawing by `draw_slices` in which no two names overlap."""
    return SIZE[0], 0.9 + 0.22 * (len(table) - 1)


def _label_shares(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _enlarge_corner(
    axes: Axes, draw: Callable[[Axes], None], *, place: tuple[float, float], x: tuple[float, float]
) -> None:
    """Draw the upper corner between the two `x` again, larger, at `place`."""
    corner = axes.inset_axes((*place, 0.5, 0.5), facecolor=PAPER)
    draw(corner)
    _label_shares(corner, "", "")
    slack = CORNER / 30
    corner.set(xlim=(x[0] - slack, x[1] + slack), ylim=(1 - CORNER, 1 + slack))
    corner.set(xticks=np.linspace(*x, 3), yticks=np.linspace(1 - CORNER, 1, 3))
    corner.set_title("the corner, enlarged", fontsize=8.5, backgroundcolor=PAPER)


def _legend_above(axes: Axes) -> None:
    # Above the axes nothing can be hidden by it.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2)
