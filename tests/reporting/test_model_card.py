from __future__ import annotations

import dataclasses

from catdog.inference.prediction import About
from catdog.reporting.model_card import Facts, model_card

ABOUT = About("some_backbone", "my {pets}", "kaggle: dogs-vs-cats", 3, 0.9, 1.25, 0.015)
FACTS = Facts(
    name="pets",
    version="9.8.7",
    counts={"training": {"cat": 1200, "dog": 900}, "validation": {"cat": 30, "dog": 20}},
    digest="abc123",
    metrics={
        "val_accuracy_score": 0.98,
        "val_accuracy_score_ci_low": 0.9,
        "val_accuracy_score_ci_high": 0.999,
        "val_log_loss": 0.5,
    },
    judged={"val_ece": 0.01234},
    licence="apache-2.0",
)


def test_a_card_says_what_the_model_was_made_of():
    card = model_card(ABOUT, FACTS)
    assert card.startswith("# Cat and dog: ")
    told = ("`some_backbone`", "catdog 9.8.7", "`my {pets}` (kaggle: dogs-vs-cats)", "`abc123`")
    assert all(words in card for words in told)
    assert "training 1,200 cat, 900 dog; validation 30 cat, 20 dog" in card


def test_a_card_says_what_the_model_is_not_for_and_whose_the_weights_are():
    card = model_card(ABOUT, FACTS)
    assert "It tells cat and dog apart in photos of one of them" in card
    assert "It knows no finer kinds" in card
    assert "The backbone's weights: apache-2.0." in card


def test_a_card_says_when_a_photo_is_neither():
    card = model_card(ABOUT, dataclasses.replace(FACTS, metrics={}, judged={}))
    assert "the temperature 1.250; below a familiarity of 0.015\nthe answer is `neither`" in card


def test_each_measured_number_has_a_row_and_its_interval_where_there_is_one():
    card = model_card(ABOUT, FACTS)
    assert "| `val_accuracy_score` | 0.9800 | 0.9000 to 0.9990 |\n" in card
    assert "| `val_log_loss` | 0.5000 |  |\n" in card
    assert "| `val_ece` | 0.0123 |\n" in card


def test_the_lines_that_load_it_are_python():
    code = model_card(ABOUT, FACTS).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert '"models:/pets/VERSION"' in code
