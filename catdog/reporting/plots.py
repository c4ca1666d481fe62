"""Every plot, once: a function draws on axes, for figures in MLflow and for charts in the report.

Each `draw_` returns what it has drawn in words, for who cannot see it. Pure: nothing is shown or
saved.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn import metrics

from catdog import CLASSES, Classes
from catdog.data.classes import probability_name
from catdog.evaluation.calibration import Labels, Logits, probability, reliability
from catdog.evaluation.intervals import wilson
from catdog.evaluation.metrics import Confusion, Scores
from catdog.evaluation.slices import SliceScore
from catdog.training.judge import Judgement
from catdog.training.loop import Epoch

if TYPE_CHECKING:
    from optuna import Study

INK, MUTED, PAPER = "#1b1f24", "#59636e", "#ffffff"
OURS, OTHER, KEPT = "#0b5cad", "#9a5b00", "#1a7f37"

STYLE = Path(__file__).with_name("plots.mplstyle")
SIZE = (4.7, 3.5)
"""Inches, 72 SVG units each: what still has readable letters across a phone."""
TILE_PX, CAPTION_PX = 165, 22
"""Of a grid of pictures."""
CORNER = 0.1
"""How much of a corner is drawn larger where a good model's curve hides in it."""
LONGEST = 40
"""Letters of a slice's name that are drawn; the axes would have no room beside more."""
FAINTEST = 1e-6
"""The least familiarity that is drawn: a logarithmic axis has no room for zero."""

Draw = Callable[..., str]
"""Draws on the axes that it is given first, and returns what that shows, in words."""


class Chart(NamedTuple):
    """An SVG file without a background, and what it shows, for who cannot see it."""

    svg: bytes
    description: str


def to_svg(draw: Draw, *given: object, size: tuple[float, float] = SIZE) -> Chart:
    """What `draw` makes of axes and what is `given`; the same drawing gives the same text."""
    stream = io.BytesIO()
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        # The reader's fonts have the letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        description = draw(figure.subplots(), *given)
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    return Chart(stream.getvalue(), description)


@mpl.rc_context(fname=STYLE)
def to_figure(draw: Draw, *given: object) -> Figure:
    """The same for MLflow, which shows PNG."""
    figure = Figure(figsize=SIZE, layout="constrained", dpi=120)
    draw(figure.subplots(), *given)
    return figure


def draw_learning_curve(
    axes: Axes,
    measure: Literal["loss", "accuracy"],
    epochs: Sequence[Epoch],
    kept: int,
    baseline: Scores | None = None,
) -> str:
    """Draw a measure by epoch, training beside validation, from the first epoch on.

    The epoch whose weights were `kept` gets a ring; what is reached with nothing trained, the
    `baseline`, is a level: is training worth it?
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

    Labels, scores and the scores with nothing trained, `baseline`, are `(N,)`; both classes are
    present.
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


def draw_reliability(axes: Axes, judgement: Judgement, classes: Classes = CLASSES) -> str:
    """Draw the share of dogs among photos with a like p_positive, before and after calibration.

    A dot's area grows with the number of photos; a bar is the share's 95 % interval.
    """
    before, after = probability(judgement.logits), judgement.p_positive
    share, name = f"share of {classes[1]}", probability_name(classes)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfect")
    series = ((before, "s", OTHER, "as trained"), (after, "o", OURS, "calibrated"))
    for place, (p_positive, marker, colour, label) in enumerate(series):
        predicted, observed, count = reliability(judgement.labels, p_positive)
        x = predicted + 0.012 * place  # beside each other where they are alike
        right = np.rint(observed * count).astype(int)
        low, high = zip(*map(wilson, right.tolist(), count.tolist()), strict=True)
        axes.vlines(x, low, high, color=colour, lw=0.9)
        area = 14 + 120 * count / count.sum()
        axes.scatter(x, observed, area, marker=marker, color=colour, label=label)
    _label_shares(axes, name, share)
    _legend_above(axes)
    return f"Reliability: {share} by {name}, as trained and calibrated, against the diagonal"


def draw_familiarity(axes: Axes, judgement: Judgement, threshold: float) -> str:
    """Draw how familiar photos of both classes look, beside pictures that are neither.

    What looks less familiar than the threshold is answered with "neither".
    """
    validation = np.maximum(judgement.familiarity, FAINTEST)
    neither = np.maximum(judgement.neither, FAINTEST)
    edges = np.geomspace(min(validation.min(), neither.min(), 1e-2), 1, 33).tolist()
    groups = (
        (neither, {"facecolor": "none", "edgecolor": OTHER, "hatch": "////", "label": "neither"}),
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
        f"Familiarity: below the threshold lie {np.mean(neither < threshold):.1%} of the pictures "
        f"that are neither and {np.mean(validation < threshold):.1%} of the validation photos"
    )


def draw_slices(axes: Axes, table: Sequence[SliceScore]) -> str:
    """Draw each slice's accuracy with its interval, one below the other.

    The first row of the `table` is all photos, whose accuracy is a level to compare with.
    """
    whole, *rows = table
    places = np.arange(len(rows))
    axes.axvline(whole.accuracy, color=MUTED, linestyle=":", label="all photos")
    _legend_above(axes)
    axes.hlines(places, [row.low for row in rows], [row.high for row in rows], color=OURS)
    axes.plot([row.accuracy for row in rows], places, "o", color=OURS)
    names = [row.name for row in rows]
    axes.set_yticks(places, [it if len(it) <= LONGEST else f"{it[:LONGEST]}…" for it in names])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    # Long names leave it little room, where more numbers would overlap.
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("accuracy, with its 95 % interval")
    lowest = min(rows, key=lambda row: row.accuracy)
    return f"Accuracy of {len(rows)} slices, the lowest {lowest.accuracy:.1%} ({lowest.name})"


def slices_size(table: Sequence[SliceScore]) -> tuple[float, float]:
    """The size of a drawing by `draw_slices` in which no two names overlap."""
    return SIZE[0], 0.9 + 0.22 * (len(table) - 1)


@mpl.rc_context(fname=STYLE)
def learning_curves(epochs: Sequence[Epoch], kept: int, baseline: Scores | None = None) -> Figure:
    """Loss and accuracy by epoch, training beside validation, the kept epoch marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    draw_learning_curve(loss_axes, "loss", epochs, kept, baseline)
    draw_learning_curve(accuracy_axes, "accuracy", epochs, kept, baseline)
    return figure


def confusion_figure(confusion: Confusion, title: str, classes: Classes = CLASSES) -> Figure:
    """The confusion matrix in counts and in shares of each true class."""
    counts = confusion.matrix
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        cell = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        colour = PAPER if shares[row, column] > 0.5 else INK
        axes.text(column, row, cell, ha="center", va="center", fontsize=15, color=colour)
    axes.set_xticks([0, 1], classes)
    axes.set_yticks([0, 1], classes, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="truth", title=title)
    return figure


def picture_grid(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, columns: int = 8
) -> Figure:
    """Pictures, each `(H, W, 3) uint8`, in rows of `columns` with a caption above each."""
    rows = -(-len(pictures) // columns)
    height, width = rows * (TILE_PX + CAPTION_PX), columns * TILE_PX
    dpi = 110
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    # One canvas: axes for each picture would take ten times as long to lay out.
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        small = np.asarray(ImageOps.contain(Image.fromarray(picture), (TILE_PX - 4, TILE_PX - 4)))
        top = number // columns * (TILE_PX + CAPTION_PX) + CAPTION_PX
        left = number % columns * TILE_PX + (TILE_PX - small.shape[1]) // 2
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        centre = (number % columns + 0.5) * TILE_PX / width
        figure.text(centre, 1 - (top - 4) / height, caption, ha="center", va="bottom", fontsize=9)
    figure.figimage(canvas, origin="upper")
    return figure


def study_figures(study: Study) -> dict[str, Figure]:
    """How a sweep's losses came with its parameters, and which of them mattered, by name."""
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optuna_plots

    pyplot.switch_backend("agg")  # no window
    figures = {}
    for name, plot in (
        ("parallel_coordinates", optuna_plots.plot_parallel_coordinate),
        ("parameter_importances", optuna_plots.plot_param_importances),
    ):
        with warnings.catch_warnings(action="ignore"):  # that it is experimental, say
            plot(study, target_name="search log-loss")
        figures[name] = pyplot.gcf()
        figures[name].set_size_inches(9, 5)
        figures[name].tight_layout()
        pyplot.close()
    return figures


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
