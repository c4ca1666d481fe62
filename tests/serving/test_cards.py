from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from catdog import CatdogError
from catdog.inference import explain
from catdog.inference.classifier import Classifier
from catdog.inference.prediction import Options, Prediction
from catdog.serving import cards
from catdog.serving.cards import MOST_FILES, Card, card_html, facts_html, show, to_html
from tests.conftest import encoded, tiny_classifier, tiny_picture

DOG = Prediction("dog", 0.977, 0.977, 0.42)
PHOTO = re.compile(r'<img src="data:image/jpeg;base64,([^"]+)"')


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tiny_classifier()


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    contents = {
        "cat.jpg": encoded(tiny_picture("cat", 1)),
        "letter.txt": b"Dear cat,",
        "dog.png": encoded(tiny_picture("dog", 1), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def _pictures(shown: str) -> list[Image.Image]:
    found = PHOTO.findall(shown)
    return [Image.open(io.BytesIO(base64.b64decode(encoded_one))) for encoded_one in found]


def test_the_answers_come_first_and_the_heat_maps_follow(classifier, paths):
    first, second = show(classifier, paths, Options())
    assert len(_pictures(first)) == 2
    assert len(_pictures(second)) == 4
    assert re.findall("<b>(cat|dog|neither)</b>", first) == re.findall(
        "<b>(cat|dog|neither)</b>", second
    )


def test_a_card_says_what_the_classifier_says_of_the_bytes_of_the_file(classifier, paths):
    options = Options(reject=False)
    (said,) = classifier.predict([paths[2].read_bytes()], options)
    *_, shown = show(classifier, [paths[2]], options)
    assert f"<b>{said.label}</b> <span>{said.confidence:.1%} sure</span>" in shown
    assert f"<dd>{said.p_positive:.4f}</dd>" in shown
    assert f"<dd>{said.familiarity:.3f}</dd>" in shown
    assert f"width:{said.confidence:.1%}" in shown


def test_a_file_that_is_no_picture_gets_a_sentence_among_the_answers(classifier, paths):
    *_, shown = show(classifier, paths, Options())
    assert "2 of 3 photos answered." in shown
    assert "<b>Not answered:</b> not a picture in a format that can be read." in shown
    assert "Traceback" not in shown


def test_the_options_reach_the_answer(classifier, paths):
    labels = [
        re.findall("<b>(cat|dog)</b>", list(show(classifier, paths, options))[-1])
        for options in (Options(reject=False, threshold=0), Options(reject=False, threshold=1))
    ]
    assert labels == [["dog", "dog"], ["cat", "cat"]]


def test_too_many_files_are_counted_and_none_is_read(classifier):
    missing = [Path(f"/nowhere/{number}.jpg") for number in range(MOST_FILES + 1)]
    (shown,) = show(classifier, missing, Options())
    assert f"{MOST_FILES + 1} files are too many" in shown


def test_a_file_that_is_gone_is_told_as_an_error(classifier, tmp_path):
    *_, shown = show(classifier, [tmp_path / "gone.jpg"], Options())
    assert "<b>Not answered:</b> No such file or directory." in shown


def test_no_file_shows_nothing(classifier):
    assert list(show(classifier, [], Options()))[-1] == ""


def test_a_photo_is_shown_upright_and_small(classifier, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(tiny_picture("cat", 2, (800, 400)), exif=exif))
    first, _ = show(classifier, [path], Options())
    (picture,) = _pictures(first)
    assert picture.size == (cards.THUMBNAIL_PX // 2, cards.THUMBNAIL_PX)


def test_a_backbone_without_a_map_of_features_leaves_a_note(classifier, monkeypatch):
    def refuse(*_):
        raise CatdogError("this backbone has no map")

    monkeypatch.setattr(explain, "draw", refuse)
    card = cards.explain(classifier, Card("cat.jpg", DOG, photo="data:,"), b"")
    assert "This backbone has no heat map." in card_html(card)
    assert "Heat map of" not in card_html(card)


def test_a_heat_map_is_of_the_answer_and_for_neither_of_the_likelier_animal():
    stranger = card_html(Card("x", Prediction("neither", math.nan, 0.4, 0.0)))
    assert "what speaks for a cat" in stranger
    assert "sure" not in stranger
    assert "what speaks for a cat" in card_html(Card("x", Prediction("cat", 0.4, 0.6, 0.5)))
    assert "what speaks for a dog" in card_html(Card("x", Prediction("dog", 0.4, 0.4, 0.5)))


def test_a_card_of_another_pair_names_its_classes():
    ant, bee = (
        card_html(Card("x", Prediction(label, 0.9, p, 0.5)), ("ant", "bee"))
        for label, p in (("ant", 0.1), ("bee", 0.9))
    )
    assert "what speaks for an ant" in ant
    assert "probability of a bee" in ant
    assert 'class="card negative"' in ant
    assert 'class="card positive"' in bee


@example("${alert(1)} {{value}} <img src=x onerror=alert(1)> \"'")
@given(st.text(min_size=1))
def test_a_name_can_not_add_to_the_page(name):
    plain = card_html(Card("x", DOG))
    shown = card_html(Card(name, DOG))
    assert shown.count("<") == plain.count("<")
    assert "${" not in shown
    assert "{{" not in shown


def test_facts_are_escaped_too():
    assert "&lt;b&gt;" in facts_html("The model", {"data set": "<b>"})


def test_a_summary_counts_what_could_not_be_answered():
    nan = float("nan")
    failed = Card("x", Prediction("", nan, nan, nan, error="the file is empty"))
    assert "1 of 3 photos answered." in to_html([failed, Card("y", DOG), failed])
