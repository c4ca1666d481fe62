"""Numbers and pictures → the figures that the MLflow UI shows. Pure: nothing is shown or saved."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from catdog import Classes
from catdog.evaluation.calibration import expected_calibration_error, probability
from catdog.evaluation.metrics import Confusion, Scores
from catdog.reporting.plots import (
    INK,
    PAPER,
    SIZE,
    STYLE,
    draw_familiarity,
    draw_learning_curve,
    draw_reliability,
)
from catdog.training.judge import Judgement
from catdog.training.loop import Epoch

if TYPE_CHECKING:
    from optuna import Study

TILE_PX, CAPTION_PX = 165, 22


def confusion_figure(confusion: Confusion, title: str, classes: Classes) -> Figure:
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


@mpl.rc_context(fname=STYLE)
def learning_curves(epochs: Sequence[Epoch], kept: int, baseline: Scores | None = None) -> Figure:
    """Loss and accuracy by epoch, training beside validation, the kept epoch marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    draw_learning_curve(loss_axes, "loss", epochs, kept, baseline)
    draw_learning_curve(accuracy_axes, "accuracy", epochs, kept, baseline)
    return figure


@mpl.rc_context(fname=STYLE)
def reliability_figure(judgement: Judgement, classes: Classes) -> Figure:
    """How often photos are dogs beside how often they were said to be, before and after."""
    labels, before, after = judgement.labels, probability(judgement.logits), judgement.p_positive
    errors = [expected_calibration_error(labels, p_positive) for p_positive in (before, after)]
    figure = Figure(figsize=SIZE, layout="constrained", dpi=120)
    draw_reliability(figure.subplots(), labels, before, after, classes)
    title = "calibration error {:.4f} as trained, {:.4f} calibrated".format(*errors)
    figure.suptitle(title, fontsize="medium")
    return figure


@mpl.rc_context(fname=STYLE)
def familiarity_figure(judgement: Judgement, reject_below: float, classes: Classes) -> Figure:
    """Familiarity of validation photos beside that of pictures that are neither."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", dpi=120)
    draw_familiarity(figure.subplots(), judgement.familiarity, judgement.neither, reject_below)
    title = f"neither {classes[0]} nor {classes[1]}: ROC AUC {judgement.neither_roc_auc:.4f}"
    figure.suptitle(title, fontsize="medium")
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
    from optuna.visualization import matplotlib as plots

    pyplot.switch_backend("agg")  # no window
    figures = {}
    for name, plot in (
        ("parallel_coordinates", plots.plot_parallel_coordinate),
        ("parameter_importances", plots.plot_param_importances),
    ):
        with warnings.catch_warnings(action="ignore"):  # that it is experimental, say
            plot(study, target_name="search log-loss")
        figures[name] = pyplot.gcf()
        figures[name].set_size_inches(9, 5)
        figures[name].tight_layout()
        pyplot.close()
    return figures
