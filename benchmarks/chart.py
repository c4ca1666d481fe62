"""Bars of seconds or of pictures a second, for the picture beside a benchmark's table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

OURS, OTHERS = "#1f6feb", "#c4c9d0"


def bars(values: Mapping[str, float], path: Path, *, title: str, unit: str) -> None:
    """Write a horizontal bar chart, catdog's own bars in colour, to `path`.

    Args:
        values: by the name of the bar, from top to bottom.
        path: of the picture; its suffix decides the format.
        title: above the chart.
        unit: below it.
    """
    figure = Figure(figsize=(8, 0.5 * len(values) + 1.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    colours = [OURS if "catdog" in name else OTHERS for name in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours)
    axes.bar_label(drawn, fmt="{:,.4g}", padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def lines(
    counts: list[int], values: Mapping[str, list[float]], path: Path, *, title: str, unit: str
) -> None:
    """Write one line for each name over the number of pictures to `path`, from zero up."""
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for name, line in values.items():
        axes.plot(counts, line, marker="o", label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend()
    axes.set_title(title, loc="left")
    axes.set_xlabel("pictures")
    axes.set_ylabel(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
