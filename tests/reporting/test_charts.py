from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from catdog.reporting import charts
from catdog.reporting.svg import COLOURS

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 60)
LOGITS = RNG.normal(size=120) * 1.5 + np.where(LABELS, 3.0, -3.0)
P_DOG = 1 / (1 + np.exp(-LOGITS))
BASELINE = LOGITS / 2 + RNG.normal(size=120)

CHARTS = {
    "learning": lambda: charts.learning_curve(
        "loss (nats)", [0.3, 0.1, 0.05], [0.2, 0.06, 0.07], kept=2, baseline=0.1
    ),
    "shares": lambda: charts.learning_curve(
        "accuracy", [0.9, 0.95], [0.9, 0.98], kept=2, shares=True
    ),
    "roc": lambda: charts.roc_curve(LABELS, LOGITS, BASELINE),
    "precision": lambda: charts.precision_recall_curve(LABELS, LOGITS, BASELINE),
    "reliability": lambda: charts.reliability(LABELS, P_DOG, P_DOG**0.9),
    "familiarity": lambda: charts.familiarity(LOGITS, LOGITS - 9, -6.0, "likeness"),
    "intervals": lambda: charts.intervals(["dark", "bright"], [0.9, 0.8], [0.8, 0.7], [0.95, 0.9]),
}


def _texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


def _description(svg: str) -> str:
    return ElementTree.fromstring(svg).get("aria-label")


@pytest.fixture(params=CHARTS)
def chart(request) -> str:
    return CHARTS[request.param]()


def test_every_colour_follows_the_scheme_of_the_page(chart):
    colours = re.findall(r"var\(--(\w+), (#\w+)\)", chart)
    assert {COLOURS[name] for name, _ in colours} == {colour for _, colour in colours}
    assert not re.search(
        r"#[0-9a-fA-F]{3,8}\b|rgb\(", re.sub(r"var\([^)]*\)|url\([^)]*\)", "", chart)
    )


def test_a_chart_says_what_it_shows_to_who_cannot_see_it(chart):
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.find("title").text == root.get("aria-label")


def test_the_same_numbers_give_the_same_text():
    assert all(draw() == draw() for draw in CHARTS.values())


def test_letters_stay_letters_in_the_font_of_the_page(chart):
    assert _texts(chart)
    assert "font-family" not in chart


def test_nothing_in_a_chart_changes_the_page_around_it(chart):
    assert "<style" not in chart
    assert "<!DOCTYPE" not in chart
    assert "<metadata" not in chart


def test_ids_are_used_and_unique_among_all_charts():
    page = "".join(draw() for draw in CHARTS.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert ids
    assert len(ids) == len(set(ids))
    assert set(ids) == set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))


def test_learning_curves_tell_the_kept_epoch_and_the_untrained_level():
    assert _description(CHARTS["learning"]()) == (
        "loss (nats) by epoch: validation 0.0600 in the kept epoch 2 of 3; untrained 0.1000"
    )
    assert "untrained" in _texts(CHARTS["learning"]())
    assert "untrained" not in _texts(CHARTS["shares"]())


def test_a_roc_curve_tells_its_area():
    area = metrics.roc_auc_score(LABELS, LOGITS)
    assert _description(CHARTS["roc"]()).endswith(f"{area:.4f}")


def test_a_corner_is_enlarged_only_where_the_curve_hides_in_it():
    random = RNG.normal(size=120)
    for draw in (charts.roc_curve, charts.precision_recall_curve):
        assert "the corner, enlarged" in _texts(draw(LABELS, LOGITS))
        assert "the corner, enlarged" not in _texts(draw(LABELS, random))


def test_reliability_puts_each_bin_at_its_mean_and_its_share_of_dogs():
    p_dog = np.array([0.11, 0.13, 0.95, 1.0])
    mean, dogs, counts = charts._binned(np.array([0, 1, 1, 1]), p_dog, 10)
    np.testing.assert_allclose(mean, [0.12, 0.975])
    np.testing.assert_allclose(dogs, [0.5, 1.0])
    assert counts.tolist() == [2, 2]


def test_reliability_without_calibration_draws_one_series():
    assert "calibrated" not in _texts(charts.reliability(LABELS, P_DOG))
    assert "calibrated" in _texts(CHARTS["reliability"]())


def test_familiarity_tells_what_lies_below_the_threshold():
    known, strangers = [0.0, 1.0, 2.0, 3.0], [-2.0, -1.0, 0.0, 1.0]
    assert _description(charts.familiarity(known, strangers, 0.5, "likeness")) == (
        "Familiarity: below the threshold lie 75.0% of the pictures that are neither "
        "and 25.0% of the validation photos"
    )


def test_intervals_name_every_slice_and_the_lowest():
    ci = binomtest(9, 10).proportion_ci(method="wilson")
    svg = charts.intervals(["dark", "small"], [0.9, 0.8], [ci.low, 0.7], [ci.high, 0.9], 0.85)
    assert {"dark", "small", "all photos"} <= set(_texts(svg))
    assert _description(svg).endswith("the lowest 80.0% (small)")


@pytest.mark.parametrize("name", ["<b>&\"'", "$x$ or $y$", "_hidden", "猫", "a\x07b", "\udcff.jpg"])
def test_a_slice_may_have_any_name(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = charts.intervals([name], [0.9], [0.8], [0.95])
    shown = re.sub("[\x07\udcff]", " ", name)
    assert shown in _texts(svg)
    svg.encode()
