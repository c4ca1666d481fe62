"""Numbers and pictures → matplotlib figures. Pure: nothing is shown, nothing is saved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageOps

from catdog import CLASSES
from catdog.evaluate import Confusion, Scores
from catdog.train import Epoch

TILE_PX, CAPTION_PX = 165, 22
TRAIN_COLOUR, VAL_COLOUR = "#8a8f98", "#1f6feb"


def confusion_figure(confusion: Confusion, title: str) -> Figure:
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
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES, rotation=90, va="center")
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
