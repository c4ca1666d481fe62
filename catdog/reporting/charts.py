"""Numbers → the charts of the report, as SVG text. Pure: nothing is shown or saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn import metrics

from catdog import CLASSES, Classes
from catdog.data.classes import probability_name
from catdog.reporting.svg import COLOURS, SIZE, printable, to_svg

CORNER = 0.1
"""How much of a corner is drawn larger where a good model's curve hides in it."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def learning_curve(
    name: str,
    train: Sequence[float],
    val: Sequence[float],
    *,
    kept: int,
    baseline: float | None = None,
    shares: bool = False,
) -> str:
    """A number by epoch, training beside validation, the kept epoch marked.

    Args:
        name: of the number, for the axis.
        train: the number on training pictures, of epoch 1 and on.
        val: the number on validation pictures, as many.
        kept: the epoch whose weights were kept, from 1.
        baseline: the level that is reached with nothing trained.
        shares: the numbers lie in 0..1 and are shown as percentages.
    """

    def draw(axes: Axes) -> None:
        epochs = np.arange(1, len(val) + 1)
        axes.plot(epochs, train, "s--", color=COLOURS["muted"], label="training")
        axes.plot(epochs, val, "o-", color=COLOURS["ours"], label="validation")
        axes.plot(
            [kept], [val[kept - 1]], "o", ms=11, mfc="none", mec=COLOURS["kept"], label="kept"
        )
        if baseline is not None:
            axes.axhline(baseline, color=COLOURS["other"], linestyle=":", label="untrained")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            axes.set_ylim(bottom=0)
        _legend_above(axes)

    found = f"{_number(val[kept - 1], shares)} in the kept epoch {kept} of {len(val)}"
    untrained = "" if baseline is None else f"; untrained {_number(baseline, shares)}"
    return to_svg(draw, f"{name} by epoch: validation {found}{untrained}")


def roc_curve(
    labels: ArrayLike,
    scores: ArrayLike,
    baseline: ArrayLike | None = None,
    *,
    classes: Classes = CLASSES,
) -> str:
    """Dogs found against cats taken for dogs, at every threshold.

    Args:
        labels: `(N,)`, 0 = cat and 1 = dog, both present.
        scores: `(N,)`, logits or probabilities of a dog.
        baseline: `(N,)`, scores with nothing trained.
        classes: what they are called.
    """
    negative, positive = classes
    area = metrics.roc_auc_score(labels, scores)

    def curves(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle=":", label="guessing")
        if baseline is not None:
            wrong, found, _ = metrics.roc_curve(labels, baseline)
            axes.plot(wrong, found, "--", color=COLOURS["other"], label="untrained")
        wrong, found, _ = metrics.roc_curve(labels, scores)
        axes.plot(wrong, found, color=COLOURS["ours"], label="this model")

    def draw(axes: Axes) -> None:
        curves(axes)
        _shares(axes, f"{negative} taken for {positive}", f"{positive} found")
        if area > 1 - CORNER / 2:
            _enlarge(axes, curves, place=(0.42, 0.14), x=(0, CORNER))
        _legend_above(axes)

    return to_svg(draw, f"ROC curve: the area under it is {area:.4f}")


def precision_recall_curve(
    labels: ArrayLike,
    scores: ArrayLike,
    baseline: ArrayLike | None = None,
    *,
    classes: Classes = CLASSES,
) -> str:
    """How many of what is called a dog are dogs, against dogs found; arguments as `roc_curve`."""
    positive = classes[1]
    area = metrics.average_precision_score(labels, scores)

    def curve(axes: Axes, answers: ArrayLike, style: str, colour: str, label: str) -> None:
        precision, recall, _ = metrics.precision_recall_curve(
            labels, answers, drop_intermediate=True
        )
        axes.plot(recall, precision, style, color=COLOURS[colour], label=label)

    def curves(axes: Axes) -> None:
        guessing = float(np.mean(np.asarray(labels)))
        axes.axhline(guessing, color=COLOURS["muted"], linestyle=":", label="guessing")
        if baseline is not None:
            curve(axes, baseline, "--", "other", "untrained")
        curve(axes, scores, "-", "ours", "this model")

    def draw(axes: Axes) -> None:
        curves(axes)
        _shares(axes, f"{positive} found (recall)", f"{positive} among those called so")
        if area > 1 - CORNER / 2:
            _enlarge(axes, curves, place=(0.16, 0.14), x=(1 - CORNER, 1))
        _legend_above(axes)

    return to_svg(draw, f"Precision and recall: the average precision is {area:.4f}")


def reliability(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike | None = None,
    *,
    bins: int = 10,
    classes: Classes = CLASSES,
) -> str:
    """The share of dogs among photos with a like p_positive, before and after calibration.

    A dot's area grows with the number of photos; a bar is the share's 95 % interval.

    Args:
        labels: `(N,)`, 0 = cat and 1 = dog.
        before: `(N,)`, p_positive as trained.
        after: `(N,)`, p_positive after calibration.
        bins: of equal width.
        classes: what they are called.
    """
    share, name = f"share of {classes[1]}", probability_name(classes)
    series = [(before, "s", "other", "as trained")]
    if after is not None:
        series.append((after, "o", "ours", "calibrated"))

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle=":", label="perfect")
        for number, (p_positive, marker, colour, label) in enumerate(series):
            x, dogs, counts = _binned(np.asarray(labels), np.asarray(p_positive, dtype=float), bins)
            _dots(axes, x + 0.012 * number, dogs, counts, marker, COLOURS[colour], label)
        _shares(axes, name, share)
        _legend_above(axes)

    when = "as trained" if after is None else "as trained and calibrated"
    return to_svg(draw, f"Reliability: {share} by {name}, {when}, against the diagonal")


def familiarity(known: ArrayLike, strangers: ArrayLike, threshold: float, scale: str) -> str:
    """How familiar photos of both classes look, against pictures that are neither.

    Args:
        known: familiarity of validation photos; more is more familiar.
        strangers: familiarity of pictures that are neither.
        threshold: what looks less familiar is answered with "neither".
        scale: what the numbers are, for the axis.
    """
    known, strangers = np.asarray(known, dtype=float), np.asarray(strangers, dtype=float)
    edges = np.histogram_bin_edges(np.concatenate([known, strangers]), bins=32).tolist()

    def draw(axes: Axes) -> None:
        groups = (
            (strangers, "other", "////", "neither"),
            (known, "ours", "", "validation photos"),
        )
        for values, colour, hatch, label in groups:
            axes.hist(
                values,
                edges,
                weights=np.full(len(values), 1 / len(values)),
                histtype="stepfilled",
                facecolor=COLOURS[colour] if not hatch else "none",
                edgecolor=COLOURS[colour],
                alpha=None if hatch else 0.55,
                hatch=hatch,
                label=label,
            )
        axes.axvline(threshold, color=COLOURS["ink"], linestyle="--", label="threshold")
        axes.set(xlabel=scale, ylabel="share of each group")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _legend_above(axes)

    told = np.mean(strangers < threshold)
    lost = np.mean(known < threshold)
    return to_svg(
        draw,
        f"Familiarity: below the threshold lie {told:.1%} of the pictures that are neither "
        f"and {lost:.1%} of the validation photos",
    )


def intervals(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    overall: float | None = None,
) -> str:
    """A share with its 95 % interval for each name, one below the other.

    `overall` is drawn as a level to compare with.
    """

    def draw(axes: Axes) -> None:
        rows = np.arange(len(names))
        if overall is not None:
            axes.axvline(overall, color=COLOURS["muted"], linestyle=":", label="all photos")
            _legend_above(axes)
        axes.hlines(rows, lows, highs, color=COLOURS["ours"])
        axes.plot(values, rows, "o", color=COLOURS["ours"])
        axes.set_yticks(rows, list(map(printable, names)))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        # Long names leave it little room, where more numbers would overlap.
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("accuracy, with its 95 % interval")

    worst = int(np.argmin(values))
    return to_svg(
        draw,
        f"Accuracy of {len(names)} slices, the lowest {values[worst]:.1%} ({names[worst]})",
        size=(SIZE[0], 0.9 + 0.22 * len(names)),
    )


def _binned(labels: Counts, p_positive: Floats, bins: int) -> tuple[Floats, Floats, Counts]:
    """Of each bin that holds photos: their mean p_positive, their share of dogs, their count."""
    places = np.minimum((p_positive * bins).astype(int), bins - 1)
    counts = np.bincount(places, minlength=bins)
    held = counts > 0
    mean = np.bincount(places, p_positive, bins)[held] / counts[held]
    dogs = np.bincount(places, labels, bins)[held] / counts[held]
    return mean, dogs, counts[held]


def _dots(
    axes: Axes,
    x: Floats,
    shares: Floats,
    counts: Counts,
    marker: str,
    colour: str,
    label: str,
) -> None:
    found = [
        binomtest(round(share * count), int(count)).proportion_ci(method="wilson")
        for share, count in zip(shares, counts, strict=True)
    ]
    axes.vlines(x, [ci.low for ci in found], [ci.high for ci in found], color=colour, lw=0.9)
    sizes = 14 + 120 * counts / counts.sum()
    axes.scatter(x, shares, sizes, marker=marker, color=colour, label=label)


def _shares(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    _percentages(axes)


def _enlarge(
    axes: Axes,
    curves: Callable[[Axes], None],
    *,
    place: tuple[float, float],
    x: tuple[float, float],
) -> None:
    """Draw the upper corner between the two `x` again, larger, at `place`."""
    corner = axes.inset_axes((*place, 0.5, 0.5), facecolor=COLOURS["paper"])
    curves(corner)
    slack = CORNER / 30
    corner.set(xlim=(x[0] - slack, x[1] + slack), ylim=(1 - CORNER, 1 + slack))
    corner.set(xticks=np.linspace(*x, 3), yticks=np.linspace(1 - CORNER, 1, 3))
    _percentages(corner)
    corner.set_title("the corner, enlarged", fontsize=8.5, backgroundcolor=COLOURS["paper"])


def _percentages(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _legend_above(axes: Axes) -> None:
    # Above the axes nothing can be hidden by it.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2)


def _number(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else f"{value:.4f}"
