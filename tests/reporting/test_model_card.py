from __future__ import annotations

import pytest

from catdog import __version__
from catdog.reporting.model_card import model_card


@pytest.fixture
def card(dataset, trained) -> str:
    return model_card("pets", dataset, trained)


def test_a_card_says_what_the_model_was_made_of_and_what_it_is_not_for(card, dataset):
    assert card.startswith("# Cat and dog: ")
    made_of = ("`test_resnet`", f"catdog {__version__}", "`pets` (sample:", f"`{dataset.digest}`")
    assert all(words in card for words in made_of)
    training, validation = (dataset.counts[split] for split in ("training", "validation"))
    assert (
        f"training {training['cat']} cat, {training['dog']} dog; "
        f"validation {validation['cat']} cat, {validation['dog']} dog" in card
    )
    assert "It tells cat and dog apart in photos of one of them" in card
    assert "It knows no finer kinds" in card
    assert "The backbone's weights: apache-2.0." in card


def test_each_measured_number_has_a_row_with_its_interval(card, trained):
    ends = (trained.metrics[f"val_accuracy_score{end}"] for end in ("", "_ci_low", "_ci_high"))
    assert "| `val_accuracy_score` | {:.4f} | {:.4f} to {:.4f} |\n".format(*ends) in card
    about = trained.classifier.about
    error = trained.judgement.metrics(about)["val_ece"]
    assert f"| `val_ece` | {error:.4f} |\n" in card
    assert f"the temperature {about.temperature:.3f}; below a familiarity of 0.100" in card


def test_the_lines_that_load_it_are_python(card):
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert '"models:/pets/VERSION"' in code
