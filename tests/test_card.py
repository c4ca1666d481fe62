from __future__ import annotations

from catdog.card import model_card
from catdog.classifier import About

ABOUT = About("some_backbone", "my {pets}", "kaggle: dogs-vs-cats", 3, 0.9, 1.25, 0.015)


def test_a_card_says_what_the_model_was_made_of():
    card = model_card(ABOUT, "9.8.7", {})
    assert card.startswith("# Cat and dog: ")
    for told in ("`some_backbone`", "catdog 9.8.7", "`my {pets}` (kaggle: dogs-vs-cats)"):
        assert told in card


def test_a_card_says_what_the_model_is_not_for():
    assert "It does not know breeds" in model_card(ABOUT, "1", {})


def test_a_card_says_when_a_photo_is_neither():
    card = model_card(ABOUT, "1", {})
    assert "the temperature 1.250; below a familiarity of 0.015 the answer is `neither`" in card


def test_each_measured_number_has_a_row():
    card = model_card(ABOUT, "1", {"val_ece": 0.01234, "val_log_loss": 0.5})
    assert "|---|---|\n| `val_ece` | 0.0123 |\n| `val_log_loss` | 0.5000 |\n" in card
