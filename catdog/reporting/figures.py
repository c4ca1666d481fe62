"""Numbers and pictures → matplotlib figures. Pure: nothing is shown, nothing is saved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageOps

from catdog import CLASSES, Classes
from catdog.data.classes import one
from catdog.evaluation.calibration import expected_calibration_error, probability, reliability
from catdog.evaluation.metrics import Confusion, Scores
from catdog.training.judge import Judgement
from catdog.training.loop import Epoch

TILE_PX, CAPTION_PX = 165, 22
TRAIN_COLOUR, VAL_COLOUR = "#8a8f98", "#1f6feb"


def confusion_figure(confusion: Confusion, title: str, classes: Classes = CLASSES) -> Figure:
    """The confusion matrix in counts and in shares of each true class."""
    counts = confusion.matrix
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=15,
            color="white" if shares[row, column] > 0.5 else "#1b1f24",
        )
    axes.set_xticks([0, 1], classes)
    axes.set_yticks([0, 1], classes, rotation=90, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(title)
    return figure


def learning_curves(
    epochs: Sequence[Epoch], best_epoch: int, baseline: Scores | None = None
) -> Figure:
    """Loss and accuracy by epoch, training beside validation, the kept epoch marked.

    A `baseline` is drawn as a level line: is training worth it?
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in epochs]
    panels = (
        (loss_axes, "loss (nats)", [(e.train.loss, e.val.loss) for e in epochs]),
        (accuracy_axes, "accuracy", [(e.train.accuracy, e.val.accuracy) for e in epochs]),
    )
    for axes, name, pairs in panels:
        train, val = zip(*pairs, strict=True)
        axes.plot(numbers, train, marker="o", color=TRAIN_COLOUR, label="training")
        axes.plot(numbers, val, marker="o", color=VAL_COLOUR, label="validation")
        if baseline:
            level = baseline.loss if axes is loss_axes else baseline.accuracy
            axes.axhline(
                level, color="#bf8700", linestyle=":", label="ImageNet's classes, untrained"
            )
        axes.axvline(best_epoch, color="#2da44e", linestyle="--", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.legend(loc="lower right")
    return figure


def reliability_figure(judgement: Judgement, classes: Classes = CLASSES) -> Figure:
    """How often photos are dogs beside how often they were said to be, before and after."""
    figure = Figure(figsize=(4.8, 4.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=TRAIN_COLOUR, linestyle=":", label="as it should be")
    ways = (
        ("before calibration", judgement.logits, TRAIN_COLOUR),
        ("calibrated", judgement.calibrated, VAL_COLOUR),
    )
    for name, logits, colour in ways:
        p_positive = probability(logits)
        bins = reliability(judgement.labels, p_positive)
        error = expected_calibration_error(judgement.labels, p_positive)
        axes.plot(bins.said, bins.seen, color=colour, label=f"{name}, error {error:.4f}")
        axes.scatter(bins.said, bins.seen, s=12 + 60 * bins.count / bins.count.max(), color=colour)
    axes.set_xlabel(f"probability of {one(classes[1])}, as said")
    axes.set_ylabel(f"share that are {classes[1]}")
    axes.legend(loc="upper left")
    axes.grid(alpha=0.25)
    return figure


def familiarity_figure(
    judgement: Judgement, reject_below: float, classes: Classes = CLASSES
) -> Figure:
    """Familiarity of validation photos beside that of pictures that are neither."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    floor = 1e-6  # a logarithmic axis has no room for zero
    bins = np.logspace(np.log10(floor), 0, 40).tolist()
    known = (judgement.familiarity, VAL_COLOUR, "validation photos")
    others = (judgement.others, "#bf8700", f"neither {classes[0]} nor {classes[1]}")
    for values, colour, name in (known, others):
        share = np.full(len(values), 1 / len(values))
        axes.hist(
            np.maximum(values, floor), bins, weights=share, color=colour, alpha=0.7, label=name
        )
    if reject_below > 0:
        axes.axvline(reject_below, color="#1b1f24", linestyle="--", label="below it: neither")
    axes.set_xscale("log")
    axes.set_xlabel(f"familiarity (told apart with a ROC AUC of {judgement.neither_roc_auc:.4f})")
    axes.set_ylabel("share of pictures")
    axes.legend(loc="upper center")
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
