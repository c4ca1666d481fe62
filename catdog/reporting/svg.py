"""A matplotlib drawing → SVG text that fits into a page, light or dark.

Colours become CSS variables with the light colour as fallback, letters take the page's
font, ids are kept apart from those of other charts, and a description says what is shown.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "muted": "#59636e",
    "line": "#d0d7de",
    "ours": "#0b5cad",
    "other": "#9a5b00",
    "kept": "#1a7f37",
}
"""The CSS variables that a chart uses, and what each is on white paper."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
}

SIZE = (4.7, 3.5)
"""Inches at 72 dots: what still has readable letters across a phone."""

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Letters that a name may hold and XML may not."""

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def to_svg(draw: Callable[[Axes], None], description: str, size: tuple[float, float] = SIZE) -> str:
    """What `draw` draws on fresh axes, as an `<svg>` element that says `description`.

    The same drawing gives the same text. `size` is in inches at 72 dots.
    """
    description = printable(description)
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The page's fonts have the letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _for_a_page(stream.getvalue().decode(), description)


def printable(text: str) -> str:
    """The text with a space for each letter that a drawing can't hold."""
    return NOT_XML.sub(" ", text)


def _for_a_page(text: str, description: str) -> str:
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    _rename_ids(root, text, description)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        if (style := element.get("style")) is not None:
            element.set("style", _restyled(style))
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "chart",
        "role": "img",
        "aria-label": description,
        # What matplotlib says in a style element, which would reach the whole page.
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    title = ElementTree.Element("title")
    title.text = description
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(root: ElementTree.Element, text: str, description: str) -> None:
    """Drop the ids that nothing refers to, and give the others names of this chart's own.

    matplotlib draws its ids at random; ours are the same each time.
    """
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    chart = f"c{zlib.crc32(description.encode()):08x}"
    names = {old: f"{chart}-{number}" for number, old in enumerate(used)}
    for element in root.iter():
        if element.get("id") in names:
            element.set("id", names[element.get("id")])
        else:
            element.attrib.pop("id", None)
        link = element.attrib.pop(f"{{{XLINK}}}href", None)
        if link:
            element.set("href", f"#{names[link[1:]]}")
        for key, value in element.attrib.items():
            element.set(key, re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", value))


def _restyled(style: str) -> str:
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    for name, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{name}, {colour})")
    return style
