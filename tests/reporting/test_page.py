from __future__ import annotations

import io
import math

import pytest
from PIL import Image

from catdog.data.images import UnreadableImageError
from catdog.reporting.page import thumbnail, verdict
from catdog.reporting.report import Metric
from tests.conftest import encoded


def test_a_verdict_names_the_interval_the_baseline_and_the_decision():
    accuracy = Metric("accuracy", 0.988, 0.971, 0.995, baseline=0.973)
    assert verdict(accuracy, 400, "version 3 went to Staging.").replace("\xa0", " ") == (
        "Right on 98.8 % of 400 held back photos (95 % sure: 97.1 % to 99.5 %), better than "
        "ImageNet's classes untrained (97.3 %); version 3 went to Staging."
    )


@pytest.mark.parametrize(
    ("baseline", "words"),
    [(0.95, "worse than"), (0.9, "as good as"), (0.8, "better than"), (None, ""), (math.nan, "")],
)
def test_a_verdict_does_not_flatter(baseline, words):
    sentence = verdict(Metric("accuracy", 0.9, baseline=baseline), 1200)
    assert sentence.startswith("Right on 90.0\xa0% of 1,200 held back photos")
    assert words in sentence
    assert ("ImageNet" in sentence) == bool(words)


def test_a_thumbnail_is_small_upright_and_keeps_its_shape():
    turned = Image.new("RGB", (800, 400), "red").getexif()
    turned[0x0112] = 6
    content = encoded(Image.new("RGB", (800, 400), "red"), exif=turned.tobytes())
    small = Image.open(io.BytesIO(thumbnail(content)))
    assert (small.format, small.size) == ("JPEG", (80, 160))
    assert len(thumbnail(encoded(Image.new("RGB", (40, 30))))) < 1000


def test_a_thumbnail_of_what_is_no_picture_is_refused():
    with pytest.raises(UnreadableImageError):
        thumbnail(b"no picture")
