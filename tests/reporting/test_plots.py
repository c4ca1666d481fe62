from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn import metrics

from catdog.evaluation.metrics import Confusion, score
from catdog.evaluation.slices import UNSEEN, SliceScore, make_slices, slice_table
from catdog.reporting import plots
from catdog.reporting.plots import to_svg
from catdog.training.judge import Judgement
from tests.reporting.conftest import epoch

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 60)
LOGITS = RNG.normal(size=120) * 1.5 + np.where(LABELS, 3.0, -3.0)
BASELINE = LOGITS / 2 + RNG.normal(size=120)
EPOCHS = [epoch(number, LABELS, LOGITS / number) for number in (3, 1, 2)]
UNTRAINED = score(LABELS, BASELINE)
FAMILIAR, STRANGE = np.geomspace(0.01, 1, 80), np.geomspace(1e-9, 0.5, 40)
JUDGED = Judgement(LABELS, LOGITS, LOGITS / 2, FAMILIAR, STRANGE, 1.0)

LONG = ("medium: brightness 0.367 to 0.633", "large: 0.3 megapixel and more", "dark", "bright")
SLICES = [
    SliceScore("light", name, 100, 2, 0.98 - 0.01 * place, 0.97 - 0.01 * place, 1.0, False)
    for place, name in enumerate(("all", *LONG))
]
DRAWN = {
    "loss": (plots.draw_learning_curve, "loss", EPOCHS, 2, UNTRAINED),
    "accuracy": (plots.draw_learning_curve, "accuracy", EPOCHS, 2),
    "roc": (plots.draw_roc_curve, LABELS, LOGITS, BASELINE),
    "precision": (plots.draw_precision_recall_curve, LABELS, LOGITS, BASELINE),
    "reliability": (plots.draw_reliability, JUDGED, ("ant", "bee")),
    "familiarity": (plots.draw_familiarity, JUDGED, 0.03),
    "slices": (plots.draw_slices, SLICES),
}


def _texts(svg: bytes) -> list[str]:
    return [it.text for it in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("drawn", DRAWN)
def test_the_same_numbers_give_the_same_chart_without_a_background(drawn):
    chart = to_svg(*DRAWN[drawn])
    assert to_svg(*DRAWN[drawn]) == chart
    assert _texts(chart.svg)  # letters stay letters
    assert b"fill: #ffffff" not in chart.svg.split(b'id="axes_1"')[0]


@pytest.mark.parametrize("drawn", DRAWN)
def test_the_words_along_the_axes_of_a_chart_do_not_overlap(drawn):
    draw, *given = DRAWN[drawn]
    with mpl.rc_context(fname=plots.STYLE):
        figure = Figure(figsize=plots.SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes, *given)
        figure.draw_without_rendering()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels(), axes.get_legend().get_texts()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert len(boxes) >= 1
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ("loss", f"loss by epoch: validation {score(LABELS, LOGITS).loss:.4f} in the kept epoch 2"),
        ("loss", f"; untrained {UNTRAINED.loss:.4f}"),
        ("roc", f"the area under it is {metrics.roc_auc_score(LABELS, LOGITS):.4f}"),
        ("precision", f"precision is {metrics.average_precision_score(LABELS, LOGITS):.4f}"),
        ("slices", "Accuracy of 4 slices, the lowest 94.0% (bright)"),
    ],
)
def test_a_chart_says_what_it_shows_to_who_cannot_see_it(drawn, words):
    assert words in to_svg(*DRAWN[drawn]).description


def test_familiarity_tells_what_lies_below_the_threshold():
    known, neither = np.array([0.1, 0.4, 0.6, 0.8]), np.array([1e-9, 0.01, 0.1, 0.7])
    judged = replace(JUDGED, familiarity=known, neither=neither)
    drawn = to_svg(plots.draw_familiarity, judged, 0.3).description
    assert "75.0% of the pictures that are neither and 25.0% of the validation photos" in drawn


@pytest.mark.parametrize("name", ["<b>&\"'", "$x$ or $y$", "_hidden", "猫"])
def test_a_slice_may_have_any_name(name):
    rows = [SLICES[0], replace(SLICES[1], name=name)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = to_svg(plots.draw_slices, rows).svg
    assert name in _texts(svg)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec=None), max_size=50), st.text(max_size=20))
@example("\x00\x07\x1b[31m\r\n\ud800\uffff", "a\x00b")
@example("$x^{_", "\\frac{")
def test_any_text_of_the_user_s_leaves_a_chart_well_formed(word, column):
    rows = [{"label": "cat", "width": "9", "height": "9", f"x{column}": it} for it in (word, "1")]
    table = slice_table(make_slices(rows, [UNSEEN] * 2), np.array([0, 0]), np.array([-1.0, 1.0]))
    chart = to_svg(plots.draw_slices, table, size=plots.slices_size(table))
    assert len(table) == 1 + 2 * (word != "1")
    assert "accuracy, with its 95 % interval" in _texts(chart.svg)
    chart.description.encode()


def test_a_confusion_figure_shows_counts_and_shares_of_each_true_class():
    for confusion, shown in (
        (Confusion(90, 10, 0, 50), ["90\n90.0%", "10\n10.0%", "0\n0.0%", "50\n100.0%"]),
        (Confusion(0, 0, 1, 1), ["0\n0.0%", "0\n0.0%", "1\n50.0%", "1\n50.0%"]),
    ):
        (axes,) = plots.confusion_figure(confusion, "validation", ("ant", "bee")).axes
        assert [text.get_text() for text in axes.texts] == shown
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["ant", "bee"]
